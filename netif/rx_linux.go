package netif

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/netif/frame"
)

// The way of a received frame, in the order of this file:
//
//	run -> receive (recvmmsg) -> handle -> admit -> gather -> Filter.Inbound -> checksums -> deliver
const (
	// rxBatch frames are received with one call: enough to share its cost,
	// few enough that a batch of super-frames stays in the cache's reach.
	rxBatch = 32
	// rxFrame is the room for one network packet. The kernel's super-frames
	// stay below 64 KiB (BIG TCP is off by default, and no packet of it would
	// fit IPv4); a larger one is truncated, dropped and counted.
	rxFrame = buffer.MaxChunkSize
	// rxCopy: smaller packets are copied to a buffer of their size, larger
	// ones keep the buffer they were received in.
	rxCopy = 8 << 10
	// linkRoom holds virtio_net_hdr and Ethernet header.
	linkRoom = frame.HeaderSize + frame.EthernetSize
)

// rxSlot is where one frame of a batch is received.
type rxSlot struct {
	link [linkRoom]byte
	iov  [2]unix.Iovec
	aux  [auxRoom]byte
	room [frame.RoomSize]byte // headers of what is forwarded instead
	view *buffer.View
}

// auxRoom holds one control message with struct tpacket_auxdata (packet(7)).
const (
	auxData = 20
	auxRoom = unix.SizeofCmsghdr + (auxData+7)&^7
)

// rxQueue is one receive socket and its goroutine.
type rxQueue struct {
	e      *Endpoint
	socket *socket
	slots  []rxSlot
	msgs   []mmsghdr
	frame  frame.Frame // the one being handled: filters get a pointer, so it lives here
	wary   bool        // a read has failed here: see receive
	busy   sync.Mutex  // held while frames are handled
	outs   []*batch    // of each card that frames were forwarded to
}

func newRxQueue(e *Endpoint, s *socket) *rxQueue {
	q := &rxQueue{e: e, socket: s, slots: make([]rxSlot, rxBatch), msgs: make([]mmsghdr, rxBatch)}
	for i := range q.slots {
		slot := &q.slots[i]
		slot.iov[0].Base = &slot.link[0]
		slot.iov[0].SetLen(linkRoom)
		slot.refill()
		h := &q.msgs[i].hdr
		h.Iov = &slot.iov[0]
		h.SetIovlen(len(slot.iov))
		h.Control = &slot.aux[0]
	}
	return q
}

// refill gives the slot a fresh buffer after the last one went to the stack.
func (s *rxSlot) refill() {
	s.view = buffer.NewViewSize(rxFrame)
	s.iov[1].Base = &s.view.AsSlice()[0]
	s.iov[1].SetLen(rxFrame)
}

// run receives until the socket is closed. It parks in the runtime's poller:
// the thread that sees the frame arrive is the one that handles it.
func (q *rxQueue) run() {
	defer q.e.wg.Done()
	for {
		err := q.socket.raw.Read(q.receive) // ends with the socket; receive has counted errors
		if !errors.Is(err, os.ErrDeadlineExceeded) || q.socket.file.SetReadDeadline(time.Time{}) != nil {
			break
		}
	}
	for i := range q.slots {
		q.slots[i].view.Release()
	}
}

// rxFailures in a row end a round of reads, so that an error that stays cannot
// keep a core busy.
const rxFailures = 64

// settle waits until no frame is being handled.
func (q *rxQueue) settle() {
	q.busy.Lock()
	defer q.busy.Unlock()
}

// receive handles what waits in the socket and reports false when it is empty.
//
// A frame that virtio_net_hdr has no words for, as a UDP super-frame from a
// virtual machine, fails its read and is lost, with others waiting behind it.
// In the middle of a batch the kernel keeps the error for the next call, and a
// batch that is not full no longer means an empty socket: from the first such
// frame on, whose successors may have to wait for one more, the socket is
// asked again after each batch.
func (q *rxQueue) receive(fd uintptr) bool {
	q.busy.Lock()
	defer q.busy.Unlock()
	if q.e.paused.Load() {
		return false // frames wait in the socket; Resume looks for them
	}
	for failures := 0; failures < rxFailures; {
		for i := range q.msgs {
			q.msgs[i].hdr.SetControllen(auxRoom)
		}
		n, errno := recvmmsg(fd, q.msgs)
		switch errno {
		case 0:
			failures = 0
			q.handle(n)
			if n < len(q.msgs) && !q.wary {
				// The poller is edge-triggered and remembers an arrival
				// since this call: no need to ask the socket once more.
				return false
			}
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		case unix.ENETDOWN:
			// Said once when the link goes down; the socket lives on.
			q.e.count.rxErrors.Add(1)
			failures++
		default:
			q.e.count.rxErrors.Add(1)
			failures++
			q.wary = true
		}
	}
	return false
}

// handle takes one batch to its end.
func (q *rxQueue) handle(n int) {
	c := &q.e.count
	c.rxFrames.Add(uint64(n))
	q.e.verifyMu.RLock()
	defer q.e.verifyMu.RUnlock()
	bytes := uint64(0)
	for i := range n {
		size := int(q.msgs[i].len)
		bytes += uint64(size)
		if !q.admit(&q.slots[i], &q.msgs[i], size) || inPieces(&q.frame) && !q.gather() {
			continue
		}
		if q.e.filter != nil {
			switch q.e.filter.Inbound(&q.frame) {
			case frame.Drop:
				c.rxFiltered.Add(1)
				continue
			case frame.Consume:
				c.rxCarried.Add(1)
				continue
			case frame.Reply:
				c.rxCarried.Add(1)
				q.e.reply(&q.frame)
				continue
			case frame.Forward:
				c.rxCarried.Add(1)
				q.forward(&q.frame)
				continue
			}
		}
		q.pass(&q.slots[i], &q.frame)
	}
	c.rxBytes.Add(bytes - uint64(n*frame.HeaderSize))
	for _, b := range q.outs {
		if b.n > 0 {
			b.e.sendAll(b)
		}
	}
}

// forward collects a frame for another card, or for this one. It is sent before
// the buffers that it lies in are received into again.
func (q *rxQueue) forward(f *frame.Frame) {
	to, ok := f.To.(*Endpoint)
	if !ok {
		return // the filter's fault
	}
	for _, b := range q.outs {
		if b.e == to {
			b.addParts(f.Meta, f.Head, f.Body)
			return
		}
	}
	b := newBatch(to)
	q.outs = append(q.outs, b)
	b.addParts(f.Meta, f.Head, f.Body)
}

// admit reads a frame's metadata and turns away what is not for us.
func (q *rxQueue) admit(s *rxSlot, m *mmsghdr, size int) bool {
	c := &q.e.count
	q.frame = frame.Frame{Meta: *(*frame.Header)(unsafe.Pointer(&s.link)), Eth: s.link[frame.HeaderSize:], Room: s.room[:]}
	f := &q.frame
	switch {
	case m.hdr.Flags&unix.MSG_TRUNC != 0:
		c.rxTruncated.Add(1)
		return false
	case size <= linkRoom:
		c.rxRunt.Add(1)
		return false
	}
	f.Net = s.view.AsSlice()[:size-linkRoom]
	tag := vlanTag(s.aux[:m.hdr.Controllen])
	f.VLAN, f.Tagged = tag.tci, tag.kind != 0
	mac := q.e.mac.Load()
	if f.Eth[0]&1 == 0 && [6]byte(f.Eth[:6]) != *mac {
		c.rxOtherHost.Add(1)
		return false
	}
	if [6]byte(f.Eth[6:12]) == *mac {
		c.rxOwnSource.Add(1)
		return false
	}
	if f.Tagged && tag.kind != frame.TypeVLAN {
		c.rxVLAN.Add(1) // a provider's tag (802.1ad): its numbers are not those of our VLANs
		return false
	}
	if f.Meta.GSOType != frame.GSONone {
		c.rxSuper.Add(1)
		switch f.Meta.GSOType &^ frame.GSOECN {
		case frame.GSOTCPv4, frame.GSOTCPv6:
		default:
			c.rxUnsupport.Add(1)
			return false
		}
	}
	return q.known(f)
}

// known reports whether there is a port for a frame, and a protocol of the stack's.
// What the stack would not take the filter may not see, which goes by the packet
// alone: it would take the stack to have it.
func (q *rxQueue) known(f *frame.Frame) bool {
	c := &q.e.count
	if f.Tagged {
		if _, ok := (*q.e.ports.Load())[vid(f)]; !ok {
			c.rxVLAN.Add(1)
			return false
		}
	}
	switch kind := binary.BigEndian.Uint16(f.Eth[12:]); kind {
	case frame.TypeARP:
	case frame.TypeIPv4, frame.TypeIPv6:
		if (f.Net[0]>>4 == 4) != (kind == frame.TypeIPv4) {
			c.rxMalformed.Add(1)
			return false
		}
	default:
		c.rxUnknownType.Add(1)
		return false
	}
	return true
}

// vid is the number of the VLAN that a frame belongs to. VLAN 0 is only a priority:
// the frame is untagged (802.1Q 9.6).
func vid(f *frame.Frame) uint16 {
	if !f.Tagged {
		return 0
	}
	return f.VLAN & 0xfff
}

// inPieces reports whether a frame carries a part of an IP packet.
func inPieces(f *frame.Frame) bool {
	if len(f.Net) < 40 {
		return len(f.Net) >= 20 && f.Net[0]>>4 == 4 && binary.BigEndian.Uint16(f.Net[6:])&0x3fff != 0
	}
	const fragment = 44 // RFC 8200, 4.5
	return f.Net[0]>>4 == 4 && binary.BigEndian.Uint16(f.Net[6:])&0x3fff != 0 || f.Net[0]>>4 == 6 && f.Net[6] == fragment
}

// gather takes a frame with a piece of a packet, and reports whether there is
// something to go on with: a piece for the stack, or now the whole packet.
func (q *rxQueue) gather() bool {
	what, lost := q.e.pieces.take(&q.frame)
	if lost > 0 {
		q.e.count.rxBadPieces.Add(uint64(lost))
	}
	switch what {
	case pieceKept:
		q.e.count.rxPieces.Add(1)
		return false
	case pieceBad:
		q.e.count.rxBadPieces.Add(1)
		return false
	}
	return true
}

// tag is a VLAN tag; its kind is 0 where there is none.
type tag struct{ tci, kind uint16 }

// vlanTag finds the tag that the kernel has taken out of the frame
// (struct tpacket_auxdata in linux/if_packet.h).
func vlanTag(control []byte) tag {
	if len(control) < unix.SizeofCmsghdr+auxData {
		return tag{}
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA {
		return tag{}
	}
	aux := control[unix.SizeofCmsghdr:]
	const statusAt, tciAt, kindAt = 0, 16, 18
	status := binary.NativeEndian.Uint32(aux[statusAt:])
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		return tag{}
	}
	found := tag{tci: binary.NativeEndian.Uint16(aux[tciAt:]), kind: frame.TypeVLAN}
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		found.kind = binary.NativeEndian.Uint16(aux[kindAt:])
	}
	return found
}

// pass hands a frame to the port it belongs to, if its checksums are right.
func (q *rxQueue) pass(s *rxSlot, f *frame.Frame) {
	c := &q.e.count
	d := (*q.e.ports.Load())[vid(f)].dispatcher.Load() // admit has looked: ports stay
	if d == nil {
		c.rxDetached.Add(1)
		return
	}
	fragment := false
	kind := binary.BigEndian.Uint16(f.Eth[12:])
	if kind != frame.TypeARP {
		l, ok := frame.Parse(f.Net)
		if !ok {
			c.rxMalformed.Add(1)
			return
		}
		if fragment = l.Fragment; !fragment && !q.checksumGood(f, l) {
			c.rxBadChecksum.Add(1)
			return
		}
	}
	q.deliver(s, f, *d, tcpip.NetworkProtocolNumber(kind), fragment)
}

// checksumGood decides by the frame's own flags. A partial checksum never was
// on a wire: nothing can have damaged it. One that the card has verified is
// taken at its word; every other is verified here.
func (q *rxQueue) checksumGood(f *frame.Frame, l frame.Layout) bool {
	if f.Meta.Flags&frame.NeedsCsum != 0 {
		if int(f.Meta.CsumStart) == frame.EthernetSize+l.Transport {
			return true
		}
		// The partial sum belongs to an inner header: finish it, then judge the outer one.
		if !frame.Complete(&f.Meta, f.Net) {
			return false
		}
		return l.TransportValid(f.Net)
	}
	return f.Meta.Flags&frame.DataValid != 0 || l.TransportValid(f.Net)
}

// Deliver gives the stack a frame that a Filter had kept for itself. Filters do
// not see it again.
func (e *Endpoint) Deliver(f *frame.Frame) {
	e.verifyMu.RLock()
	defer e.verifyMu.RUnlock()
	q := rxQueue{e: e}
	q.pass(nil, f)
}

// deliver gives the packet to the stack, in the buffer it was received in when
// it is large and there is one.
func (q *rxQueue) deliver(s *rxSlot, f *frame.Frame, d gstack.NetworkDispatcher, kind tcpip.NetworkProtocolNumber, fragment bool) {
	var view *buffer.View
	if s != nil && len(f.Net) > rxCopy && &f.Net[0] == &s.view.AsSlice()[0] {
		view = s.view
		view.CapLength(len(f.Net))
		s.refill()
	} else {
		view = buffer.NewView(len(f.Net))
		_, _ = view.Write(f.Net) // grows as needed, cannot fail
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	pkt.PktType = tcpip.PacketHost
	if f.Eth[0]&1 != 0 {
		pkt.PktType = tcpip.PacketMulticast
		if [6]byte(f.Eth[:6]) == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} {
			pkt.PktType = tcpip.PacketBroadcast
		}
	}
	if fragment {
		q.e.deliverFragment(d, kind, pkt)
	} else {
		d.DeliverNetworkPacket(kind, pkt)
	}
	pkt.DecRef()
}

// deliverFragment lets the stack verify the reassembled packet, which only it
// sees whole. gVisor asks for our capabilities at each packet, so they change
// for the length of this call, while no other queue delivers.
func (e *Endpoint) deliverFragment(d gstack.NetworkDispatcher, kind tcpip.NetworkProtocolNumber, pkt *gstack.PacketBuffer) {
	e.verifyMu.RUnlock()
	e.verifyMu.Lock()
	e.verify.Store(true)
	d.DeliverNetworkPacket(kind, pkt)
	e.verify.Store(false)
	e.verifyMu.Unlock()
	e.verifyMu.RLock()
}
