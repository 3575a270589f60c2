package netif

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket buffer sizes asked for, in bytes. Super-frames of 64 KiB are charged
// at twice their size: 32 MiB hold about 250 of them, 10 ms at 10 Gbit/s.
const (
	rcvBuf = 32 << 20
	sndBuf = 8 << 20
)

// socket is an AF_PACKET socket (packet(7)) to receive from, known to the
// runtime's poller.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// fanout is a group of receive sockets that share a card's frames by flow:
// PACKET_FANOUT_HASH is symmetric, both directions of a connection arrive at
// the same socket. The first socket to join makes the group.
type fanout struct {
	id   int
	made bool
}

// openAllRx opens n sockets that share the frames arriving at the card.
func openAllRx(ifindex, n int) (all []*socket, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				err = errors.Join(err, s.file.Close())
			}
		}
	}()
	var group *fanout
	if n > 1 {
		group = &fanout{}
	}
	for range n {
		s, err := openRx(ifindex, group)
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	if group == nil {
		return all, nil
	}
	for _, s := range all {
		if err := s.accept(); err != nil {
			return all, err
		}
	}
	return all, nil
}

// openRx opens a socket that gets every frame arriving at the card. One of a
// group will get its share, and gets nothing until accept.
func openRx(ifindex int, group *fanout) (*socket, error) {
	// Protocol 0: no frame arrives before every option is set.
	fd, err := openPacket()
	if err != nil {
		return nil, err
	}
	if err := setupRx(fd, ifindex, group); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "packet")
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("poll packet socket: %w", err), file.Close())
	}
	return &socket{file: file, raw: raw}, nil
}

func setupRx(fd, ifindex int, group *fanout) error {
	options := []struct {
		name     string
		opt, val int
	}{
		{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR, 1},
		{"PACKET_AUXDATA", unix.PACKET_AUXDATA, 1},
		// Frames that the kernel itself sends are none of ours.
		{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING, 1},
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.opt, o.val); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	growBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, rcvBuf)
	// IPv6 neighbours ask solicited-node groups: take all multicast.
	member := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_ALLMULTI}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member); err != nil {
		return fmt.Errorf("receive all multicast: %w", err)
	}
	if group != nil {
		// Between bind and join it would get the frames of all the others too.
		if err := refuseAll(fd); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	if group == nil {
		return nil
	}
	if err := group.join(fd); err != nil {
		return fmt.Errorf("join PACKET_FANOUT group: %w", err)
	}
	return nil
}

// refuseAll makes a socket take no frame, until accept.
func refuseAll(fd int) error {
	none := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// accept lets frames into a socket of a group, once all have joined.
func (s *socket) accept() error {
	err := s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	if err != nil {
		return fmt.Errorf("detach filter: %w", err)
	}
	return nil
}

// join puts a bound socket into the group. The kernel picks a number that no
// other program uses.
func (g *fanout) join(fd int) error {
	how := unix.PACKET_FANOUT_HASH
	if !g.made {
		how |= unix.PACKET_FANOUT_FLAG_UNIQUEID
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, g.id|how<<16); err != nil || g.made {
		return err
	}
	value, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	g.id, g.made = value&0xffff, err == nil
	return err
}

// openTx opens a socket that only sends. The runtime's poller does not know it:
// it would be woken each time a frame has left.
//
// PACKET_QDISC_BYPASS stays off. It would hide what we send from tcpdump on
// the card, and drop frames where now a full driver queue is waited for. And it
// gains nothing: BenchmarkTransmit, medians of 8 runs on a shared 2-core VM,
// Linux 6.18, veth, 2026-11-23, in ns per frame without -> with the option:
//
//	               one small frame   64 of 1500 bytes   16 super-frames
//	noqueue         4820 -> 4980      3870 -> 4300       9980 -> 10170
//	pfifo_fast      4440 -> 4660      4280 -> 4350      10310 -> 11310
//
// Single runs differ by 20 %, more than with and without do.
func openTx(ifindex int) (int, error) {
	fd, err := openPacket()
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return -1, errors.Join(fmt.Errorf("set PACKET_VNET_HDR: %w", err), unix.Close(fd))
	}
	growBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sndBuf)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		return -1, errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// openPacket opens a socket that does not block.
func openPacket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("open packet socket: CAP_NET_RAW is missing: %w", err)
	case err != nil:
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	return fd, nil
}

// inherit takes over sockets that another process has set up. On an error they
// are the caller's still.
func inherit(files []*os.File, ifindex int) (all []*socket, err error) {
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, fmt.Errorf("poll packet socket: %w", err)
		}
		s := &socket{file: f, raw: raw}
		err = s.control(func(fd int) error { return isSocketOf(fd, ifindex) })
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// isSocketOf tells why a file is no packet socket of a card.
func isSocketOf(fd, ifindex int) error {
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_PACKET {
		return errors.New("what was inherited is no packet socket")
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("inherited packet socket: %w", err)
	}
	if at, ok := name.(*unix.SockaddrLinklayer); !ok || at.Ifindex != ifindex {
		return errors.New("the inherited packet socket is of another card")
	}
	return nil
}

// duplicate is another file of the same socket.
func (s *socket) duplicate() (f *os.File, err error) {
	err = s.control(func(fd int) error {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(dup), "packet")
		}
		return err
	})
	return f, err
}

func (s *socket) control(f func(fd int) error) error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// growBuffer asks for size bytes. The forced option passes the system's limit
// but needs CAP_NET_ADMIN in the first user namespace; elsewhere the limit
// (net.core.rmem_max, wmem_max) is what we get, and drops are counted.
func growBuffer(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size) // smaller than asked is still right
	}
}

// kernelDrops reads and clears the kernel's count of frames that found the
// socket buffer full (PACKET_STATISTICS, packet(7)).
func (s *socket) kernelDrops() uint64 {
	var drops uint64
	_ = s.control(func(fd int) error { // a closed socket has no more drops to tell
		var stats unix.TpacketStats
		size := uint32(unsafe.Sizeof(stats))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS,
			uintptr(unsafe.Pointer(&stats)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			drops = uint64(stats.Drops)
		}
		return nil
	})
	return drops
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func recvmmsg(fd uintptr, msgs []mmsghdr) (int, unix.Errno) {
	// RawSyscall: the socket never blocks, and telling the scheduler about
	// each call costs more than the call when one frame waits.
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	return int(n), errno
}

func sendmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	return int(n), errno
}
