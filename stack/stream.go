package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// Streams is a Listener whose connections block, for protocols that are written
// so. One goroutine accepts; Close ends it.
type Streams struct {
	l     *Listener
	ready chan struct{}
	done  chan struct{}
}

// ListenStreams accepts blocking connections to addr under the named policy.
func (s *Stack) ListenStreams(addr netip.AddrPort, policy string) (*Streams, error) {
	l, err := s.Listen(addr, policy)
	if err != nil {
		return nil, err
	}
	t := &Streams{l: l, ready: make(chan struct{}, 1), done: make(chan struct{})}
	l.Notify(func() {
		select {
		case t.ready <- struct{}{}:
		default:
		}
	})
	return t, nil
}

// Accept implements net.Listener.
func (t *Streams) Accept() (net.Conn, error) {
	for {
		select {
		case <-t.done:
			return nil, net.ErrClosed
		default:
		}
		c, err := t.l.TryAccept()
		if err == nil {
			return &stream{gonet.NewTCPConn(c.queue, c.ep), c}, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-t.done:
			return nil, net.ErrClosed
		case <-t.ready:
		}
	}
}

// DialStream connects to remote under the named policy, and waits until the
// connection is there or ctx is done.
func (s *Stack) DialStream(ctx context.Context, remote netip.AddrPort, policy string) (net.Conn, error) {
	c, err := s.Dial(remote, policy)
	if err != nil {
		return nil, err
	}
	news := make(chan struct{}, 1)
	c.Notify(func() {
		select {
		case news <- struct{}{}:
		default:
		}
	})
	for {
		err := c.Established()
		if err == nil {
			c.Notify(nil)
			return &stream{gonet.NewTCPConn(c.queue, c.ep), c}, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, errors.Join(fmt.Errorf("dial %s: %w", remote, err), c.Close())
		}
		select {
		case <-news:
		case <-ctx.Done():
			c.Abort()
			return nil, fmt.Errorf("dial %s: %w", remote, ctx.Err())
		}
	}
}

// Close implements net.Listener; once.
func (t *Streams) Close() error {
	close(t.done)
	return t.l.Close()
}

// Addr implements net.Listener.
func (t *Streams) Addr() net.Addr { return net.TCPAddrFromAddrPort(t.l.addr) }

// stream is a Conn that blocks.
type stream struct {
	*gonet.TCPConn
	c *Conn
}

// lingerRead is how long a peer may take to answer our FIN.
const lingerRead = 2 * time.Second

// Close sends FIN and waits a moment for the peer's: a close with unread data
// would be a reset.
func (s *stream) Close() error {
	if s.c.closed.Load() {
		return nil
	}
	err := s.c.CloseWrite()
	if err == nil {
		if err = s.SetReadDeadline(time.Now().Add(lingerRead)); err == nil {
			_, _ = io.Copy(io.Discard, s.TCPConn) // how it ends does not matter any more
		}
		_ = s.SetDeadline(time.Time{}) // stops its timers
	}
	return errors.Join(err, s.c.Close())
}

// Abort sends RST.
func (s *stream) Abort() { s.c.Abort() }
