package servicestest

import (
	"net"
	"net/netip"

	"github.com/lastack/lastack/services"
)

// Listener implements services.Listener.
type Listener struct {
	net     *Net
	addr    netip.AddrPort
	backlog []*Conn
	notify  func()
	closed  bool
}

// Addr implements services.Listener.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Notify implements services.Listener.
func (l *Listener) Notify(f func()) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.notify = f
	if f != nil && len(l.backlog) > 0 {
		f()
	}
}

// TryAccept implements services.Listener.
func (l *Listener) TryAccept() (services.Conn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if len(l.backlog) == 0 {
		return nil, services.ErrWouldBlock
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// SetPolicy implements services.Listener.
func (l *Listener) SetPolicy(string) {}

// Close implements services.Listener.
func (l *Listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed, l.notify = true, nil
	delete(l.net.listeners, l.addr)
	delete(l.net.refused, l.addr)
	for _, c := range l.backlog {
		c.abort()
	}
	l.backlog = nil
	return nil
}

// arrive puts a connection into the backlog, or resets it.
func (l *Listener) arrive(c *Conn) {
	if l.closed {
		c.abort()
		return
	}
	l.backlog = append(l.backlog, c)
	if l.notify != nil {
		l.notify()
	}
}
