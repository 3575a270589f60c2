package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is an epoll instance whose events carry a number of the caller's.
type poller struct {
	fd     int
	events [256]unix.EpollEvent
}

// newPoller ties the calling goroutine to its thread, for good: that thread
// gets timers without slack, see PR_SET_TIMERSLACK in prctl(2).
func newPoller() (*poller, error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set the timer slack: %w", err)
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	return &poller{fd: fd}, nil
}

// close closes the instance and the sockets given.
func (p *poller) close(sockets ...int) {
	for _, fd := range append(sockets, p.fd) {
		// All was counted before: there is nothing to lose, and no way to help.
		_ = unix.Close(fd)
	}
}

// add watches fd; its events carry number in their field Fd.
func (p *poller) add(fd, number int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(number)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// wait returns the next events, none when the timeout passes or a signal
// comes. A negative timeout is none. epoll_pwait2(2) takes nanoseconds and is
// in Linux since 5.11.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	var ts *unix.Timespec
	if timeout >= 0 {
		t := unix.NsecToTimespec(int64(timeout))
		ts = &t
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
		uintptr(len(p.events)), uintptr(unsafe.Pointer(ts)), 0, 0)
	switch errno {
	case 0:
		return p.events[:n], nil
	case unix.EINTR:
		return nil, nil
	}
	return nil, fmt.Errorf("wait for sockets: %w", errno)
}

// The calls below never block, their sockets don't: so they skip what Go does
// around a system call that might.

func read(fd int, b []byte) (int, error) {
	return plain(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))))
}

func write(fd int, b []byte) (int, error) {
	return plain(unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))))
}

// discard takes up to most bytes out of a TCP socket and copies none of them,
// see MSG_TRUNC in tcp(7).
func discard(fd, most int) (int, error) {
	return plain(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(most), unix.MSG_TRUNC, 0, 0))
}

func plain(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// again reports whether there is only nothing to do at the moment.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// sockaddr reads an IPv4 address and port.
func sockaddr(addr string) (*unix.SockaddrInet4, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !ap.Addr().Is4() {
		return nil, fmt.Errorf("address %s is not IPv4", addr)
	}
	return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}, nil
}

// listen makes a socket that accepts without blocking.
func listen(addr string) (int, error) {
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen on %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// dial connects, and from then on the socket doesn't block.
func dial(sa *unix.SockaddrInet4) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	err = retryInterrupted(func() error { return unix.Connect(fd, sa) })
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("connect: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// retryInterrupted repeats a connect that a signal interrupted: it goes on
// meanwhile, see connect(2).
func retryInterrupted(connect func() error) error {
	for {
		err := connect()
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EALREADY):
		case errors.Is(err, unix.EISCONN):
			return nil
		default:
			return err
		}
	}
}
