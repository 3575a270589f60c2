package stack

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog bounds connections that nobody has accepted yet, and half-open ones:
// beyond it SYN cookies answer. 3 KB each at most (Linux: net.core.somaxconn, 4096).
const backlog = 4096

// Listener accepts the connections to one address and port.
type Listener struct {
	s      *Stack
	addr   netip.AddrPort
	policy atomic.Pointer[string] // its name: a reload may change what it says
	ep     tcpip.Endpoint
	queue  waiter.Queue
	entry  waiter.Entry
	notify func()
	closed atomic.Bool
}

// Listen accepts connections to addr under the named policy.
func (s *Stack) Listen(addr netip.AddrPort, policy string) (*Listener, error) {
	if _, err := s.policy(policy); err != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, err)
	}
	l := &Listener{s: s, addr: addr}
	l.policy.Store(&policy)
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, err)
	}
	return l, nil
}

func (l *Listener) open() error {
	if l.s.s.CheckLocalAddress(0, protocolOf(l.addr.Addr()), tcpip.AddrFromSlice(l.addr.Addr().AsSlice())) == 0 {
		return errNoAddress
	}
	ep, err := l.s.s.NewEndpoint(tcp.ProtocolNumber, protocolOf(l.addr.Addr()), &l.queue)
	if err != nil {
		return toError(err)
	}
	ep.SocketOptions().SetReuseAddress(true) // beside connections of a listener that has gone
	if err := ep.Bind(fullAddress(l.addr)); err != nil {
		ep.Close()
		return toError(err)
	}
	if err := ep.Listen(backlog); err != nil {
		ep.Close()
		return toError(err)
	}
	l.ep = ep
	if l.s.flows != nil {
		l.s.flows.Listen(l.addr, *l.policy.Load())
	}
	if l.s.gate != nil {
		l.s.gate.Allow(l.addr)
	}
	return nil
}

// Addr is where it listens.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Notify sets f to be called when a connection may be waiting; see Conn.Notify.
func (l *Listener) Notify(f func()) {
	if l.notify != nil {
		l.queue.EventUnregister(&l.entry)
	}
	l.notify = f
	if f == nil {
		return
	}
	l.entry.Init(l, waiter.ReadableEvents)
	l.queue.EventRegister(&l.entry)
	if l.ep.Readiness(waiter.ReadableEvents) != 0 {
		f()
	}
}

// NotifyEvent implements waiter.EventListener.
func (l *Listener) NotifyEvent(waiter.EventMask) { l.notify() }

// SetPolicy makes new connections go by another policy.
func (l *Listener) SetPolicy(name string) {
	l.policy.Store(&name)
	if l.s.flows != nil {
		l.s.flows.Listen(l.addr, name)
	}
}

// TryAccept takes a waiting connection, or returns EAGAIN.
func (l *Listener) TryAccept() (*Conn, error) {
	var peer tcpip.FullAddress
	ep, queue, err := l.ep.Accept(&peer)
	if err != nil {
		return nil, toError(err)
	}
	policy, unknown := l.s.policy(*l.policy.Load())
	if unknown != nil {
		ep.Abort()
		return nil, fmt.Errorf("accept: %w", unknown)
	}
	c := &Conn{id: l.s.nextID.Add(1), s: l.s, policy: policy, ep: ep, queue: queue, local: l.addr, remote: addrPort(peer)}
	if l.s.flows != nil {
		l.s.flows.Adopt(c.local, c.remote, c.id, policy.Name, true)
	}
	l.s.fields.bound(ep, policy.Retransmit, c.lostSYN())
	// gVisor hands down only a few of a listener's options: set all on each connection.
	if err := applyPolicy(ep, policy); err != nil {
		c.Abort()
		return nil, fmt.Errorf("accept %s: %w", c.remote, err)
	}
	return c, nil
}

// Close stops listening. gVisor resets connections that nobody accepted. A
// refusal of the address stays, until somebody listens there again.
func (l *Listener) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.Notify(nil)
	l.ep.Close()
	if l.s.flows != nil {
		l.s.flows.Unlisten(l.addr)
	}
	return nil
}

// Refuse makes new connections to addr be refused ("rst") or ignored
// ("silence") while handshakes under way finish, until Admit or the next Listen
// there. It outlasts the listener: gVisor answers with RST where nobody listens.
func (s *Stack) Refuse(addr netip.AddrPort, how string) {
	if s.gate != nil {
		s.gate.Refuse(addr, how)
	}
}

// Arriving reports whether handshakes with listeners are under way. Without a
// table nobody knows.
func (s *Stack) Arriving() bool { return s.flows == nil || s.flows.HalfOpen() > 0 }

// Admit ends Refuse.
func (s *Stack) Admit(addr netip.AddrPort) {
	if s.gate != nil {
		s.gate.Allow(addr)
	}
}
