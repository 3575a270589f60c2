package servicestest

import (
	"io"
	"net/netip"
	"syscall"

	"github.com/lastack/lastack/services"
)

// Peer is the far end of a service's connection, with calls that block: a
// client, or a backend's view of a connection.
type Peer struct {
	*Conn
	woken chan struct{}
}

// NewPeer makes a blocking view of a connection.
func NewPeer(c services.Conn) *Peer {
	p := &Peer{Conn: c.(*Conn), woken: make(chan struct{}, 1)}
	p.Notify(p.wake)
	return p
}

func (p *Peer) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// Client connects to addr and waits for the handshake.
func (n *Net) Client(addr netip.AddrPort) (*Peer, error) {
	c, err := n.Dial(addr, "")
	if err != nil {
		return nil, err
	}
	p := NewPeer(c)
	for {
		err := p.Established()
		if err == nil {
			return p, nil
		}
		if err != services.ErrWouldBlock {
			p.Abort()
			return nil, err
		}
		<-p.woken
	}
}

// Host is a listener with an Accept that blocks: a backend.
type Host struct {
	services.Listener
	woken chan struct{}
}

// Host listens at addr.
func (n *Net) Host(addr netip.AddrPort) (*Host, error) {
	l, err := n.Listen(addr, "")
	if err != nil {
		return nil, err
	}
	h := &Host{Listener: l, woken: make(chan struct{}, 1)}
	l.Notify(func() {
		select {
		case h.woken <- struct{}{}:
		default:
		}
	})
	return h, nil
}

// Accept waits for a connection.
func (h *Host) Accept() (*Peer, error) {
	for {
		c, err := h.TryAccept()
		if err == nil {
			return NewPeer(c), nil
		}
		if err != services.ErrWouldBlock {
			return nil, err
		}
		<-h.woken
	}
}

// Read waits for bytes, io.EOF or an error.
func (p *Peer) Read(b []byte) (int, error) {
	for {
		n, err := p.TryRead(b)
		if err != services.ErrWouldBlock {
			return n, err
		}
		<-p.woken
	}
}

// Write waits until all of b is in the send buffer.
func (p *Peer) Write(b []byte) (int, error) {
	sent := 0
	for {
		n, err := p.TryWrite(b[sent:])
		sent += n
		if err != services.ErrWouldBlock {
			return sent, err
		}
		<-p.woken
	}
}

var _ io.ReadWriter = (*Peer)(nil)

// Split is a second view of the same connection, so that one goroutine can
// read by p while another writes by the result.
func (p *Peer) Split() *Peer {
	q := &Peer{Conn: p.Conn, woken: make(chan struct{}, 1)}
	p.Notify(func() { p.wake(); q.wake() })
	q.wake()
	return q
}

// Resets counts the RSTs this end has sent.
func (c *Conn) Resets() int {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.resets
}

// Vanish makes the host disappear: nothing arrives from it any more, so that
// what is sent to it is never acknowledged.
func (c *Conn) Vanish() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.lost = true
}

// TimeOut makes the connection die as when the peer's host is gone.
func (c *Conn) TimeOut() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.fail(syscall.ETIMEDOUT)
}

// Die makes the connection die with the given error, as one that a rule of its
// policy ended.
func (c *Conn) Die(err error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.fail(err)
}

// Peer is the other end.
func (c *Conn) Peer() *Conn {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.peer
}

// Crash makes the next TryRead panic, as a fault of our own would.
func (c *Conn) Crash(with any) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.crash = with
	c.event()
}

// Wake makes a blocked Accept look again, for instance after Close.
func (h *Host) Wake() {
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// Close closes the connection and lets blocked calls return.
func (p *Peer) Close() error {
	defer p.wakeAll()()
	return p.Conn.Close()
}

// Abort resets the connection and lets blocked calls return.
func (p *Peer) Abort() {
	defer p.wakeAll()()
	p.Conn.Abort()
}

// wakeAll returns what wakes all views, for after the connection forgot them.
func (p *Peer) wakeAll() func() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.notify == nil {
		return func() {}
	}
	return p.notify
}
