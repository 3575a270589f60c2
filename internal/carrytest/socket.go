package carrytest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// socket is a TCP socket with what package net hides: how the handshake begins,
// urgent data, the reset.
type socket struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

func newSocket(fd int, name string) (*socket, error) {
	s := &socket{file: os.NewFile(uintptr(fd), name)}
	var err error
	s.raw, err = s.file.SyscallConn()
	return s, err
}

// connect begins a handshake from inside a host, and does not wait for its end:
// reads and writes do.
func connect(h *lab.Host, to netip.AddrPort, script *Script) (*socket, error) {
	var fd int
	err := h.Do(func() (err error) {
		fd, err = startConnect(to, script)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return newSocket(fd, "client of "+to.String())
}

func startConnect(to netip.AddrPort, script *Script) (int, error) {
	fd, err := unix.Socket(family(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(setOptions(fd, script), setOpen(fd, script.Open))
	if err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// setOptions sets what a script wants and what every socket here needs: urgent
// bytes stay in the stream, and a reset that was lost is heard of by a probe.
func setOptions(fd int, script *Script) error {
	var errs []error
	set := func(level, option, value int) { errs = append(errs, unix.SetsockoptInt(fd, level, option, value)) }
	set(unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 2)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 30)
	if script.NoDelay {
		set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if script.Buffer > 0 {
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, script.Buffer)
		set(unix.SOL_SOCKET, unix.SO_SNDBUF, script.Buffer)
	}
	return errors.Join(errs...)
}

// setOpen prepares the handshake, see tcp(7).
func setOpen(fd int, open Open) error {
	switch open {
	case WithACK: // the ACK of the SYN-ACK waits for data
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	case WithSYN: // the SYN waits for data
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	}
	return nil
}

// read returns 0 at the end.
func (s *socket) read(b []byte) (n int, err error) {
	failed := s.raw.Read(func(fd uintptr) bool {
		err = retry(func() error { n, err = unix.Read(int(fd), b); return err })
		return err != unix.EAGAIN
	})
	if failed != nil {
		err = s.named(failed)
	}
	return max(n, 0), err
}

// write writes all of it.
func (s *socket) write(b []byte, flags int) (written int, err error) {
	for written < len(b) && err == nil {
		var n int
		failed := s.raw.Write(func(fd uintptr) bool {
			err = retry(func() error {
				n, err = unix.SendmsgN(int(fd), b[written:], nil, nil, flags|unix.MSG_NOSIGNAL)
				return err
			})
			return err != unix.EAGAIN
		})
		written += max(n, 0)
		if failed != nil {
			err = s.named(failed)
		}
	}
	return written, err
}

// retry repeats a call that a signal interrupted, or a connection that was gone
// before it was accepted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR && err != unix.ECONNABORTED {
			return err
		}
	}
}

// finish ends our half.
func (s *socket) finish() error {
	return s.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// reset ends both halves by RST.
func (s *socket) reset() error {
	linger := &unix.Linger{Onoff: 1}
	err := s.control(func(fd int) error { return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, linger) })
	return errors.Join(err, s.close())
}

// close may be called more than once.
func (s *socket) close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.file.Close()
}

// named makes the error of a use after close one that can be told from others.
func (s *socket) named(err error) error {
	if err != nil && s.closed.Load() {
		return os.ErrClosed
	}
	return err
}

// connected waits for the end of the handshake.
func (s *socket) connected() error {
	var err error
	failed := s.raw.Write(func(fd uintptr) bool {
		code, unknown := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case unknown != nil:
			err = unknown
		case code != 0:
			err = unix.Errno(code)
		default:
			_, not := unix.Getpeername(int(fd))
			return not == nil
		}
		return true
	})
	if err := errors.Join(failed, err); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// info is what the kernel knows, and the error that nobody has fetched yet.
func (s *socket) info() (info *unix.TCPInfo, pending error) {
	err := s.control(func(fd int) (err error) {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return err
		}
		if code != 0 {
			pending = unix.Errno(code)
		}
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	if err != nil {
		return &unix.TCPInfo{}, err
	}
	return info, pending
}

func (s *socket) control(f func(fd int) error) error {
	var err error
	if failed := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return s.named(failed)
	}
	return err
}

// until makes reads and writes fail when ctx is over.
func (s *socket) until(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// It is closed already if this fails.
		_ = s.file.SetDeadline(time.Unix(1, 0))
	})
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// listen listens inside a host.
func listen(h *lab.Host, at netip.AddrPort) (*socket, error) {
	var fd int
	err := h.Do(func() (err error) {
		fd, err = startListen(at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", at, err)
	}
	return newSocket(fd, "listener at "+at.String())
}

func startListen(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1), // before urgent data can come
		unix.Bind(fd, sockaddr(at)),
		unix.Listen(fd, 1024),
	)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// accept waits for a connection.
func (s *socket) accept() (*socket, error) {
	var fd int
	var err error
	failed := s.raw.Read(func(listener uintptr) bool {
		err = retry(func() error {
			fd, _, err = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return err
		})
		return err != unix.EAGAIN
	})
	if err := errors.Join(failed, err); err != nil {
		return nil, err
	}
	return newSocket(fd, "backend's connection")
}
