package stack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	glog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/stack/flow"
)

// Link is one configured interface and the port its frames come through.
type Link struct {
	Interface config.Interface
	Endpoint  gstack.LinkEndpoint
}

// Stack is gVisor's TCP/IP stack over the configured interfaces.
//
// New makes it with all addresses taken. The cards' endpoints must be closed
// before Close, because gVisor resets on the wire whatever is left, even
// connections in TIME-WAIT; Settle tells when that would lose nothing.
type Stack struct {
	s         *gstack.Stack
	log       *slog.Logger
	policies  atomic.Pointer[map[string]*config.Policy]
	names     map[string]tcpip.NICID
	nics      map[tcpip.NICID]gstack.NetworkInterface
	cards     []Link
	gate      *Gate
	flows     *flow.Table // nil without one
	fields    *fields
	links     *links
	clock     *Clock // nil if it is not the real one
	nextID    *atomic.Uint64
	routers   *routers
	onAddress func(AddressChange)

	asking sync.Mutex // held while an address is asked for: a card has one setting for all

	mu     sync.Mutex // guards the rest
	closed bool
	// broadcasts are the broadcast addresses of our subnets, but those of leases.
	broadcasts []netip.Addr
	leases     []Lease // that were taken
}

// Options say how a Stack is assembled.
type Options struct {
	Config *config.Config
	Links  []Link // one for each of Config.Interfaces
	Gate   *Gate  // the filter that the links' cards ask; nil if they have none
	// Flows is what the links' cards show their frames to. The stack starts and
	// closes it. Without one (nil) gVisor holds TIME-WAIT itself, as policy
	// default says, and Conn.Life tells nothing.
	Flows *flow.Table
	// Owned says that the addresses are ours already, because another process
	// hands its connections over: they are neither checked nor announced.
	Owned bool
	// OnAddress is told of addresses that come and go by router advertisements. It
	// is called by one goroutine, in order, and may block.
	OnAddress func(AddressChange)
	Log       *slog.Logger // nil discards
	Clock     tcpip.Clock  // nil is a new Clock; Pause needs one
	// IDs numbers connections; nil is a new count. Flows has the same, if it
	// carries some by itself.
	IDs *atomic.Uint64
}

// New assembles the stack, checks that nobody else uses its addresses and
// announces them (RFC 5227, RFC 4862 5.4). It takes about half a second.
func New(ctx context.Context, o Options) (*Stack, error) {
	// gVisor logs through a global; what matters reaches us as errors and counters.
	glog.SetLevel(glog.Warning)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{
		log:    o.Log,
		names:  make(map[string]tcpip.NICID),
		nics:   make(map[tcpip.NICID]gstack.NetworkInterface),
		cards:  o.Links,
		gate:   o.Gate,
		flows:  o.Flows,
		nextID: o.IDs,
	}
	if s.nextID == nil {
		s.nextID = new(atomic.Uint64)
	}
	for _, l := range o.Links {
		for _, p := range l.Interface.Addresses {
			if b, ok := broadcastOf(p); ok {
				s.broadcasts = append(s.broadcasts, b)
			}
		}
	}
	if s.flows != nil {
		s.flows.NoPeers(s.noPeers())
	}
	err := s.SetPolicies(o.Config.Policies)
	if err != nil {
		return nil, err
	}
	if s.fields, err = findFields(); err != nil {
		return nil, err
	}
	if s.links, err = findLinks(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = NewClock(0)
	}
	s.clock, _ = o.Clock.(*Clock)
	s.onAddress = o.OnAddress
	s.routers = newRouters(s)
	s.s = gstack.New(gstack.Options{
		Clock: o.Clock,
		NetworkProtocols: []gstack.NetworkProtocolFactory{
			s.meetCards,
			ipv4.NewProtocolWithOptions(ipv4.Options{IGMP: ipv4.IGMPOptions{Enabled: true}}),
			ipv6.NewProtocolWithOptions(ipv6.Options{
				NDPConfigs: ndpConfig(false),
				NDPDisp:    s.routers,
				MLD:        ipv6.MLDOptions{Enabled: true}, // snooping switches drop solicitations otherwise
			}),
		},
		TransportProtocols: []gstack.TransportProtocolFactory{
			tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	s.routers.start()
	if s.flows != nil {
		s.flows.Start(s.limited, s.resend)
	}
	if err := s.assemble(ctx, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// noPeers are the addresses that no peer of ours has.
func (s *Stack) noPeers() []netip.Addr {
	list := slices.Clone(s.broadcasts)
	for _, l := range s.cards {
		for _, p := range l.Interface.Addresses {
			list = append(list, p.Addr())
		}
	}
	return list
}

// limited ends a connection that was in a state for as long as its policy
// allows. One that services hold reports the rule as its death.
func (s *Stack) limited(l flow.Limit) bool {
	ep := s.endpoint(l.Local, l.Remote)
	if ep == nil {
		return false
	}
	ep.Abort()
	return true
}

// resend is a flow.ResendFunc.
func (s *Stack) resend(local, remote netip.AddrPort) bool {
	ep := s.endpoint(local, remote)
	return ep != nil && s.fields.rearm(ep, s.s.Clock())
}

// endpoint finds a connection of gVisor's, or nil.
func (s *Stack) endpoint(local, remote netip.AddrPort) *tcp.Endpoint {
	id := gstack.TransportEndpointID{
		LocalPort: local.Port(), LocalAddress: tcpip.AddrFromSlice(local.Addr().AsSlice()),
		RemotePort: remote.Port(), RemoteAddress: tcpip.AddrFromSlice(remote.Addr().AsSlice()),
	}
	found := s.s.FindTransportEndpoint(protocolOf(local.Addr()), tcp.ProtocolNumber, id, 0)
	ep, ok := found.(*tcp.Endpoint)
	if !ok || ep.EndpointState() == tcp.StateListen || ep.ID != id {
		return nil // a listener takes what nobody else does
	}
	return ep
}

func (s *Stack) assemble(ctx context.Context, o Options) error {
	if err := s.setTCPOptions(o.Config.Policies["default"]); err != nil {
		return err
	}
	for i, l := range o.Links {
		id := tcpip.NICID(i + 1)
		if err := s.addLink(id, l); err != nil {
			return err
		}
	}
	return s.takeAddresses(ctx, o.Links, o.Owned)
}

// addLink attaches one interface without addresses yet, and its routes.
func (s *Stack) addLink(id tcpip.NICID, l Link) error {
	name := l.Interface.Name
	// Disabled at first: routers are solicited as it is enabled, or never.
	if err := s.s.CreateNICWithOptions(id, l.Endpoint, gstack.NICOptions{Name: name, Disabled: true}); err != nil {
		return fmt.Errorf("attach interface %s: %w", name, toError(err))
	}
	s.names[name] = id
	if l.Interface.AcceptRA {
		ep, err := s.s.GetNetworkEndpoint(id, ipv6.ProtocolNumber)
		if err != nil {
			return fmt.Errorf("accept router advertisements on %s: %w", name, toError(err))
		}
		ep.(ipv6.NDPEndpoint).SetNDPConfigurations(ndpConfig(true))
	}
	if err := s.s.EnableNIC(id); err != nil {
		return fmt.Errorf("enable interface %s: %w", name, toError(err))
	}
	for _, r := range routesOf(id, l.Interface) {
		s.s.AddRoute(r)
	}
	return nil
}

// Settle waits until every FIN that was sent has been acknowledged, including
// those of connections that services have let go of. It returns how many are
// still unacknowledged when ctx ends.
func (s *Stack) Settle(ctx context.Context) int {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		n := s.finsPending()
		if n == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
	}
}

func (s *Stack) finsPending() int {
	n := 0
	for state := range s.connections() {
		if finPending(state) {
			n++
		}
	}
	return n
}

// connections yields the state of every TCP connection, also of those that
// services have let go of.
func (s *Stack) connections() iter.Seq[tcp.EndpointState] {
	return func(yield func(tcp.EndpointState) bool) {
		seen := make(map[*tcp.Endpoint]bool) // one that is about to end is in both lists
		for _, list := range [][]gstack.TransportEndpoint{s.s.RegisteredEndpoints(), s.s.CleanupEndpoints()} {
			for _, ep := range list {
				e, ok := ep.(*tcp.Endpoint)
				if !ok || seen[e] || e.EndpointState() == tcp.StateListen {
					continue
				}
				seen[e] = true
				if !yield(e.EndpointState()) {
					return
				}
			}
		}
	}
}

// Close stops the stack's goroutines and waits for them. Close the cards'
// endpoints first.
func (s *Stack) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.mu.Unlock()
	if s.flows != nil {
		s.flows.Close()
	}
	s.routers.close()
	s.s.Destroy()
}

// States counts the TCP connections by RFC 9293 state, those that services
// have let go of included.
func (s *Stack) States() map[string]int {
	states := make(map[string]int)
	for state := range s.connections() {
		states[stateName(state)]++
	}
	if s.flows != nil {
		for state, n := range s.flows.CarriedStates() {
			states[state] += n
		}
		if n := s.flows.Held(); n > 0 {
			states[flow.TimeWait.String()] = n // gVisor has none of its own
		}
	}
	return states
}

func (s *Stack) policy(name string) (*config.Policy, error) {
	p := (*s.policies.Load())[name]
	if p == nil {
		return nil, fmt.Errorf("unknown policy %q", name)
	}
	return p, nil
}

// SetPolicies puts other policies in force: for new connections, and for the
// table's bounds on live ones. One that is not among them stays as it was, for
// who still has it.
func (s *Stack) SetPolicies(all map[string]config.Policy) error {
	if s.flows != nil {
		if err := s.flows.SetPolicies(all); err != nil {
			return err
		}
	}
	next := make(map[string]*config.Policy)
	if old := s.policies.Load(); old != nil {
		for name, p := range *old {
			next[name] = p
		}
	}
	for name, p := range all {
		next[name] = &p
	}
	s.policies.Store(&next)
	return nil
}

var errNoAddress = errors.New("address is on no interface")

// protocolOf is gVisor's number for the address family.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
