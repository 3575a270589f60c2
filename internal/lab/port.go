package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vnetLen is the length of struct virtio_net_hdr, which goes before each frame
// of a port in both directions.
const vnetLen = 10

const (
	// ringFrame holds a frame of 1500 bytes with its header. Larger ones come
	// by the socket's own queue.
	ringFrame = 2 << 10
	// ringBlock is what the kernel allocates in one piece.
	ringBlock = 1 << 20
	// ringBlocks make room for 8192 frames, more than the windows of a few
	// connections: kernels send a whole window at memory speed, and the
	// receive buffer of a socket can't grow enough without being root.
	ringBlocks = 16

	framesPerBlock = ringBlock / ringFrame
)

// port is a packet socket on one interface with a receive ring, see packet(7)
// and networking/packet_mmap in the kernel's documentation. One goroutine
// receives; any may send.
type port struct {
	file *os.File
	rc   syscall.RawConn

	mu   sync.Mutex // held while receiving, so that close can't unmap under it
	ring []byte     // nil once closed; written with unmapping locked too
	big  []byte     // holds a frame too large for a slot

	slot      atomic.Int32 // the next one the kernel fills; written with mu locked
	unmapping sync.RWMutex // for who looks at the ring without mu

	closed atomic.Bool
	drops  atomic.Uint64 // frames that did not fit the ring
}

// packet is one frame in the ring. It is valid until receive continues.
type packet struct {
	vnet     []byte // the virtio_net_hdr
	data     []byte
	length   int // of the frame as it was, if data is cut
	time     time.Time
	outgoing bool
}

// openPort opens interface ifname of h. Without outgoing it sees only what
// comes in.
func openPort(h *Host, ifname string, outgoing bool) (*port, error) {
	l, err := h.Link(ifname)
	if err != nil {
		return nil, err
	}
	p := &port{}
	err = h.Do(func() error { return p.open(ifname, l.Index, outgoing) })
	if err != nil {
		return nil, fmt.Errorf("open %s of %s for frames: %w", ifname, h.name, err)
	}
	return p, nil
}

// open makes the socket ready before it is bound, so that the first frame it
// sees is already one of the interface, in the ring.
func (p *port) open(ifname string, index int, outgoing bool) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := p.prepare(fd, outgoing); err != nil {
		unix.Close(fd)
		return err
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: index}); err != nil {
		return errors.Join(os.NewSyscallError("bind", err), unix.Munmap(p.ring), unix.Close(fd))
	}
	p.file = os.NewFile(uintptr(fd), ifname)
	p.rc, err = p.file.SyscallConn()
	return err
}

func (p *port) prepare(fd int, outgoing bool) error {
	ignore := 1
	if outgoing {
		ignore = 0
	}
	for _, o := range []struct{ option, value int }{
		{unix.PACKET_VERSION, unix.TPACKET_V2},
		{unix.PACKET_VNET_HDR, 1},
		{unix.PACKET_IGNORE_OUTGOING, ignore},
		{unix.PACKET_COPY_THRESH, ringFrame},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.option, o.value); err != nil {
			return fmt.Errorf("packet option %d: %w", o.option, err)
		}
	}
	// For large frames, as much as the system gives.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	req := &unix.TpacketReq{
		Block_size: ringBlock, Block_nr: ringBlocks,
		Frame_size: ringFrame, Frame_nr: ringBlocks * framesPerBlock,
	}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, req); err != nil {
		return fmt.Errorf("make a receive ring: %w", err)
	}
	ring, err := unix.Mmap(fd, 0, ringBlock*ringBlocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the receive ring: %w", err)
	}
	p.ring = ring
	return nil
}

// receive waits for a frame, then gives f each one that is there.
func (p *port) receive(f func(packet)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil {
		return os.ErrClosed
	}
	err := p.rc.Read(func(uintptr) bool { return p.header().ready() })
	if p.closed.Load() {
		return os.ErrClosed
	}
	if err != nil {
		return err
	}
	p.takeAll(f)
	return nil
}

// takeAll takes what is in the ring, at most one round of it.
func (p *port) takeAll(f func(packet)) {
	for i := 0; i < ringBlocks*framesPerBlock && p.header().ready(); i++ {
		p.take(f)
	}
}

// take gives f the frame in the next slot and the slot back to the kernel.
func (p *port) take(f func(packet)) {
	h := p.header()
	if h.Status&unix.TP_STATUS_LOSING != 0 {
		p.countDrops()
	}
	f(p.packet(h))
	atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
	p.slot.Store((p.slot.Load() + 1) % (ringBlocks * framesPerBlock))
}

// caughtUp reports whether all that has come in was received.
func (p *port) caughtUp() bool {
	p.unmapping.RLock()
	defer p.unmapping.RUnlock()
	if p.ring == nil {
		return true
	}
	slot := p.slot.Load()
	return !p.header().ready() && p.slot.Load() == slot
}

// header is struct tpacket2_hdr of linux/if_packet.h.
type header unix.Tpacket2Hdr

func (h *header) ready() bool { return atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER != 0 }

func (p *port) offset() int {
	slot := int(p.slot.Load())
	return slot/framesPerBlock*ringBlock + slot%framesPerBlock*ringFrame
}

func (p *port) header() *header { return (*header)(unsafe.Pointer(&p.ring[p.offset()])) }

// addrOffset is where struct sockaddr_ll follows the header:
// TPACKET_ALIGN(sizeof(struct tpacket2_hdr)). Its eleventh byte is the type.
const addrOffset = 32

func (p *port) packet(h *header) packet {
	slot := p.ring[p.offset():]
	mac := int(h.Mac)
	k := packet{
		vnet:     slot[mac-vnetLen : mac],
		data:     slot[mac : mac+int(h.Snaplen)],
		length:   int(h.Len),
		time:     time.Unix(int64(h.Sec), int64(h.Nsec)),
		outgoing: slot[addrOffset+10] == unix.PACKET_OUTGOING,
	}
	if h.Status&unix.TP_STATUS_COPY != 0 {
		p.fetch(&k)
	}
	if h.Status&unix.TP_STATUS_VLAN_VALID != 0 {
		k.retag(h)
	}
	return k
}

// fetch takes a frame that did not fit its slot from the socket's queue.
func (p *port) fetch(k *packet) {
	if p.big == nil {
		p.big = make([]byte, 128<<10)
	}
	n, err := 0, error(nil)
	errClosed := p.rc.Control(func(fd uintptr) { n, err = unix.Read(int(fd), p.big) })
	if errClosed == nil && err == nil && n > vnetLen {
		k.vnet, k.data = p.big[:vnetLen], p.big[vnetLen:n]
	}
}

// retag puts back the VLAN tag that the kernel took out of the frame.
func (k *packet) retag(h *header) {
	tpid := uint16(unix.ETH_P_8021Q)
	if h.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = h.Vlan_tpid
	}
	tagged := make([]byte, 0, len(k.data)+4)
	tagged = append(tagged, k.data[:12]...)
	tagged = append(tagged, byte(tpid>>8), byte(tpid), byte(h.Vlan_tci>>8), byte(h.Vlan_tci))
	k.data = append(tagged, k.data[12:]...)
	k.length += 4
	k.vnet = shiftVnet(k.vnet, 4)
}

// send sends one frame, with its virtio_net_hdr before it.
func (p *port) send(b []byte) error {
	_, err := p.file.Write(b)
	return err
}

// countDrops adds what the kernel dropped since it was last asked, and what
// that call resets.
func (p *port) countDrops() {
	// It fails only on a closed socket.
	_ = p.rc.Control(func(fd uintptr) {
		s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			p.drops.Add(uint64(s.Drops))
		}
	})
}

// dropped returns how many frames the kernel could not put into the ring.
func (p *port) dropped() uint64 {
	p.countDrops()
	return p.drops.Load()
}

// close ends receive, gives last, if there is one, the frames that are still
// in the ring, and frees it. It may be called more than once.
func (p *port) close(last func(packet)) error {
	p.closed.Store(true)
	err := p.file.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil {
		return nil // closed before
	}
	if last != nil {
		p.takeAll(last)
	}
	p.unmapping.Lock()
	defer p.unmapping.Unlock()
	ring := p.ring
	p.ring = nil
	return errors.Join(err, unix.Munmap(ring))
}
