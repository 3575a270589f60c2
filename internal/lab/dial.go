package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens inside the host. The address is a literal one.
func (h *Host) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	return l, nil
}

// ListenPacket is Listen for datagrams.
func (h *Host) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", h.name, err)
	}
	return c, nil
}

// Dial connects from inside the host to a literal address.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("dial from %s: %w", h.name, err)
		}
		return h.DialFrom(ctx, netip.AddrPort{}, to)
	}
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	return c, nil
}

// DialFrom makes a TCP connection from a given address; a zero one lets the
// kernel choose, port 0 lets it choose the port.
func (h *Host) DialFrom(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	c, err := h.dialFrom(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("dial %s from %s: %w", to, h.name, err)
	}
	return c, nil
}

// dialFrom enters the host only to begin the handshake, and waits for its end
// on the runtime's poller: ten thousand dials need no ten thousand threads.
func (h *Host) dialFrom(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	h.dialing <- struct{}{}
	var f *os.File
	err := h.Do(func() (err error) {
		f, err = startConnect(from, to)
		return err
	})
	<-h.dialing
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := waitConnect(ctx, f); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// startConnect makes a socket in the thread's namespace and sends its SYN.
func startConnect(from, to netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	if to.Addr().Unmap().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if from.IsValid() {
		if err := unix.Bind(fd, sockaddr(from)); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("bind", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "connection to "+to.String()), nil
}

// waitConnect waits until the handshake succeeded or failed.
func waitConnect(ctx context.Context, f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		// The socket is pollable: a deadline always fits.
		_ = f.SetWriteDeadline(time.Unix(1, 0))
	})
	defer stop()
	var failed error
	err = rc.Write(func(fd uintptr) bool {
		var done bool
		done, failed = connected(int(fd))
		return done
	})
	if failed != nil {
		return failed
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connected asks a socket how its connect(2) stands.
func connected(fd int) (bool, error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return true, os.NewSyscallError("connect", unix.Errno(code))
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}
}

// HTTPClient returns the host's client, whose connections begin in the host.
func (h *Host) HTTPClient() *http.Client { return h.client }

func (h *Host) newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, MaxIdleConnsPerHost: 1024}}
}
