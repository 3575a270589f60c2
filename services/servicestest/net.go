package servicestest

import (
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

// Net is a network in memory. Set the exported fields before use.
type Net struct {
	Delay  time.Duration // one way, for everything
	Buffer int           // bytes of each receive and of each send buffer; 0 is 64 KiB

	mu        sync.Mutex // guards all below and everything of the connections
	nextID    uint64
	nextPort  uint16
	listeners map[netip.AddrPort]*Listener
	behave    map[netip.AddrPort]Behaviour
	refused   map[netip.AddrPort]string
	dials     map[netip.AddrPort]int
	open      map[*Conn]bool
	arriving  int
	carrier   *CarrierNet // of this network, or nil
}

var _ services.Network = (*Net)(nil)

// Behaviour is how an address answers a SYN.
type Behaviour int

// The behaviours.
const (
	Answer      Behaviour = iota // a listener accepts, without one it refuses
	Silent                       // never
	Unreachable                  // Dial fails at once
)

// Behave sets how addr answers from now on.
func (n *Net) Behave(addr netip.AddrPort, b Behaviour) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.behave == nil {
		n.behave = make(map[netip.AddrPort]Behaviour)
	}
	n.behave[addr] = b
}

// Dials counts the SYNs sent to addr.
func (n *Net) Dials(addr netip.AddrPort) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// Open counts the connections that nobody has closed or reset.
func (n *Net) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.open)
}

// Refuse implements services.Network.
func (n *Net) Refuse(addr netip.AddrPort, how string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused == nil {
		n.refused = make(map[netip.AddrPort]string)
	}
	n.refused[addr] = how
}

// Arriving implements services.Network.
func (n *Net) Arriving() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.arriving > 0
}

// Admit implements services.Network.
func (n *Net) Admit(addr netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.refused, addr)
}

// Listen implements services.Network.
func (n *Net) Listen(addr netip.AddrPort, _ string) (services.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	if n.listeners == nil {
		n.listeners = make(map[netip.AddrPort]*Listener)
	}
	l := &Listener{net: n, addr: addr}
	n.listeners[addr] = l
	return l, nil
}

// Dial implements services.Network: it connects from 192.0.2.1.
func (n *Net) Dial(remote netip.AddrPort, _ string) (services.Conn, error) {
	c, err := n.dial(remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (n *Net) dial(remote netip.AddrPort) (*Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dials == nil {
		n.dials, n.open = make(map[netip.AddrPort]int), make(map[*Conn]bool)
	}
	n.dials[remote]++
	if n.behave[remote] == Unreachable {
		return nil, syscall.EHOSTUNREACH
	}
	n.nextPort++
	local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), n.nextPort)
	c := n.end(local, remote)
	c.dialing = true
	n.after(func() { n.syn(c) })
	return c, nil
}

func (n *Net) end(local, remote netip.AddrPort) *Conn {
	n.nextID++
	size := n.Buffer
	if size == 0 {
		size = 64 << 10
	}
	c := &Conn{net: n, id: n.nextID, local: local, remote: remote, size: size}
	n.open[c] = true
	return c
}

// syn arrives at the address that c dials.
func (n *Net) syn(c *Conn) {
	l, how := n.listeners[c.remote], n.refused[c.remote]
	switch {
	case n.behave[c.remote] == Silent, how == "silence", c.closed:
	case l != nil && how == "" && n.carrier != nil && n.carrier.direct(c):
	case l == nil, how == "rst":
		n.after(func() { c.fail(syscall.ECONNREFUSED) })
	default:
		s := n.end(c.remote, c.local)
		s.peer, c.peer = c, s
		s.held = n.carrier != nil && n.carrier.by(c.remote).carrier != tcpinfo.Relay
		n.arriving++
		n.after(func() {
			c.dialing = false
			c.event()
			n.after(func() {
				n.arriving--
				l.arrive(s)
			})
		})
	}
}

// after runs f, under the lock, when a segment sent now arrives. Segments
// never overtake each other.
func (n *Net) after(f func()) {
	if n.Delay == 0 {
		f()
		return
	}
	time.AfterFunc(n.Delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		f()
	})
}
