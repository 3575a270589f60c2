package servicestest

import (
	"io"
	"net"
	"net/netip"
	"syscall"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

// Conn is one end of a connection. It implements services.Conn.
type Conn struct {
	net           *Net
	id            uint64
	local, remote netip.AddrPort
	peer          *Conn
	size          int // of each buffer
	notify        func()

	dialing  bool
	received []byte // in the receive buffer
	sending  []byte // in the send buffer, not taken by the peer's window
	flying   int    // bytes on their way to the peer
	flight   []segment
	finRead  bool // the peer's FIN has arrived
	finFirst bool // ours was queued before the peer's arrived
	finAsked bool // CloseWrite was called
	finSent  bool // our FIN is on its way, or has arrived
	finAcked bool
	err      error // how it died
	told     bool  // err was told
	closed   bool  // by Close or Abort
	lost     bool  // nothing from here arrives any more
	held     bool  // what has arrived can't be read yet
	resets   int   // RSTs sent
	crash    any   // TryRead panics with it
}

// segment is what travels: one of its fields.
type segment struct {
	data     []byte
	fin, rst bool
	finAck   bool
}

var _ services.Conn = (*Conn)(nil)

// ID implements services.Conn.
func (c *Conn) ID() uint64 { return c.id }

// LocalAddr implements services.Conn.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr implements services.Conn.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// Notify implements services.Conn.
func (c *Conn) Notify(f func()) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.notify = f
	if f != nil && (len(c.received) > 0 || c.finRead || c.err != nil) {
		f()
	}
}

func (c *Conn) event() {
	if c.notify != nil {
		c.notify()
	}
}

// Established implements services.Conn.
func (c *Conn) Established() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	switch {
	case c.dialing && c.err == nil:
		return services.ErrWouldBlock
	case c.state() == "CLOSED" && c.err == nil, c.told:
		return syscall.ECONNABORTED
	case c.err != nil:
		c.told = true
		return c.err
	}
	return nil
}

// TryRead implements services.Conn.
func (c *Conn) TryRead(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.crash != nil {
		panic(c.crash)
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.held && c.err == nil {
		return 0, services.ErrWouldBlock
	}
	if len(c.received) > 0 {
		n := copy(p, c.received)
		c.received = c.received[:copy(c.received, c.received[n:])]
		if c.peer != nil {
			c.peer.transmit() // the window opened
		}
		return n, nil
	}
	if err := c.tell(); err != nil {
		return 0, err
	}
	if c.finRead || c.told {
		return 0, io.EOF
	}
	return 0, services.ErrWouldBlock
}

// tell returns how the connection died, once.
func (c *Conn) tell() error {
	if c.err == nil || c.told {
		return nil
	}
	c.told = true
	return c.err
}

// TryWrite implements services.Conn.
func (c *Conn) TryWrite(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if err := c.tell(); err != nil {
		return 0, err
	}
	if c.err != nil || c.finAsked {
		return 0, syscall.EPIPE
	}
	n := min(len(p), c.size-len(c.sending))
	c.sending = append(c.sending, p[:n]...)
	c.transmit()
	if n < len(p) {
		return n, services.ErrWouldBlock
	}
	return n, nil
}

// CloseWrite implements services.Conn.
func (c *Conn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.err != nil {
		return nil // as in the stack: the reader is told
	}
	c.closeWrite()
	return nil
}

func (c *Conn) closeWrite() {
	if c.finAsked {
		return
	}
	c.finAsked, c.finFirst = true, !c.finRead
	c.transmit()
}

// Close implements services.Conn.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return nil
	}
	if len(c.received) > 0 {
		c.abort()
		return nil
	}
	c.closed, c.notify = true, nil
	delete(c.net.open, c)
	if c.err == nil {
		c.closeWrite()
	}
	return nil
}

// Abort implements services.Conn.
func (c *Conn) Abort() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.abort()
}

func (c *Conn) abort() {
	if c.closed {
		return
	}
	c.closed, c.notify = true, nil
	delete(c.net.open, c)
	if c.err == nil && c.state() != "CLOSED" && c.state() != "TIME-WAIT" {
		c.reset()
		c.err, c.told = syscall.ECONNABORTED, true
	}
}

func (c *Conn) reset() {
	c.resets++
	c.send(segment{rst: true})
}

// State implements services.Conn.
func (c *Conn) State() string {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.state()
}

func (c *Conn) state() string {
	switch {
	case c.err != nil:
		return "CLOSED"
	case c.dialing:
		return "SYN-SENT"
	case !c.finAsked && !c.finRead:
		return "ESTABLISHED"
	case !c.finAsked:
		return "CLOSE-WAIT"
	case !c.finRead && c.finAcked:
		return "FIN-WAIT-2"
	case !c.finRead:
		return "FIN-WAIT-1"
	case c.finFirst && c.finAcked:
		return "TIME-WAIT"
	case c.finFirst:
		return "CLOSING"
	case c.finAcked:
		return "CLOSED"
	}
	return "LAST-ACK"
}

// FinAcked implements services.Conn.
func (c *Conn) FinAcked() bool {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.finAcked && c.err == nil
}

// Info implements services.Conn.
func (c *Conn) Info() services.Info {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return services.Info{State: c.state(), RcvQueue: len(c.received)}
}

// Life implements services.Conn: the ends of a connection in memory only.
func (c *Conn) Life() services.Life {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return services.Life{FinSent: c.finAsked, FinAcked: c.finAcked, PeerFin: c.finRead}
}

// Probe implements services.Conn: a peer in memory always answers.
func (c *Conn) Probe(done func(tcpinfo.Probe)) {
	c.net.mu.Lock()
	alive := tcpinfo.Answers
	if c.err != nil {
		alive = tcpinfo.WasReset
	}
	c.net.mu.Unlock()
	done(tcpinfo.Probe{Alive: alive, Sent: 1})
}
