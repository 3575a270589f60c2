package stack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/config"
)

// Lease is an address that comes and goes while the stack runs, with the routes
// that it brings.
type Lease struct {
	Interface string
	Prefix    netip.Prefix
	Routes    []config.Route // one without a next hop is on the link
}

// Unclaimed asks on the interface whether somebody has the address (RFC 5227,
// 2.1.1), for about half a second. An *InUseError says who.
func (s *Stack) Unclaimed(ctx context.Context, l Lease) error {
	id, err := s.cardOf(l)
	if err != nil {
		return err
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	ch := make(chan answer, 1)
	s.setDADOf(id, header.ARPProtocolNumber, gstack.DADConfigurations{DupAddrDetectTransmits: conflictProbes, RetransmitTimer: conflictWait})
	defer s.setDADOf(id, header.ARPProtocolNumber, gstack.DADConfigurations{})
	if err := s.ask(id, l.Interface, l.Prefix.Addr(), ch); err != nil {
		return err
	}
	return answers{n: 1, ch: ch}.wait(ctx)
}

// Take makes the address ours, with its routes. It is announced, unless it was
// owned before: then Announce does it, or nobody needs it.
func (s *Stack) Take(l Lease, owned bool) error {
	id, err := s.cardOf(l)
	if err != nil {
		return err
	}
	if owned && l.Prefix.Addr().Is6() { // or gVisor would ask first, and nobody could listen there yet
		s.asking.Lock()
		defer s.asking.Unlock()
		s.setDADOf(id, header.IPv6ProtocolNumber, gstack.DADConfigurations{})
		defer s.setDADOf(id, header.IPv6ProtocolNumber, gstack.DefaultDADConfigurations())
	}
	if err := s.addAddress(id, l.Prefix); err != nil {
		return fmt.Errorf("take address %s on %s: %w", l.Prefix, l.Interface, err)
	}
	for _, r := range l.routes(id) {
		s.s.AddRoute(r)
	}
	s.mu.Lock()
	s.leases = append(s.leases, l)
	s.mu.Unlock()
	s.changed()
	if !owned {
		s.announce(id, s.cards[id-1], l.Prefix.Addr())
	}
	return nil
}

// GiveUp undoes Take. Connections on the address hear nothing any more: end them
// before.
func (s *Stack) GiveUp(l Lease) error {
	id, err := s.cardOf(l)
	if err != nil {
		return err
	}
	for _, r := range l.routes(id) {
		s.dropRoute(id, r)
	}
	s.mu.Lock()
	s.leases = slices.DeleteFunc(s.leases, l.same)
	s.mu.Unlock()
	defer s.changed()
	if err := toError(s.s.RemoveAddress(id, tcpip.AddrFromSlice(l.Prefix.Addr().AsSlice()))); err != nil {
		return fmt.Errorf("give up address %s on %s: %w", l.Prefix, l.Interface, err)
	}
	return nil
}

// Reroute puts the routes of next in the place of those of old.
func (s *Stack) Reroute(old, next Lease) error {
	id, err := s.cardOf(next)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if i := slices.IndexFunc(s.leases, old.same); i >= 0 {
		s.leases[i] = next
	}
	s.mu.Unlock()
	before, after := old.routes(id), next.routes(id)
	for _, r := range after {
		if !slices.ContainsFunc(before, sameRoute(r)) {
			s.s.AddRoute(r)
		}
	}
	for _, r := range before {
		if !slices.ContainsFunc(after, sameRoute(r)) {
			s.dropRoute(id, r)
		}
	}
	s.changed()
	return nil
}

// changed makes the table forget what it knows by our addresses and routes.
func (s *Stack) changed() {
	if s.flows != nil {
		s.flows.ForgetWays()
	}
}

func (l Lease) same(other Lease) bool {
	return l.Interface == other.Interface && l.Prefix == other.Prefix
}

func sameRoute(a tcpip.Route) func(tcpip.Route) bool {
	return func(b tcpip.Route) bool { return a.Destination.Equal(b.Destination) && a.Gateway == b.Gateway }
}

// dropRoute removes a route, unless the configuration has it too.
func (s *Stack) dropRoute(id tcpip.NICID, r tcpip.Route) {
	if !slices.ContainsFunc(routesOf(id, s.cards[id-1].Interface), sameRoute(r)) {
		s.routers.remove(r)
	}
}

var errNoCard = errors.New("there is no such interface")

func (s *Stack) cardOf(l Lease) (tcpip.NICID, error) {
	id, ok := s.names[l.Interface]
	if !ok {
		return 0, fmt.Errorf("address %s on %s: %w", l.Prefix, l.Interface, errNoCard)
	}
	return id, nil
}

// routes are those of the lease, that of its subnet first.
func (l Lease) routes(id tcpip.NICID) []tcpip.Route {
	all := []tcpip.Route{{Destination: subnet(l.Prefix), NIC: id}}
	for _, r := range l.Routes {
		route := tcpip.Route{Destination: subnet(r.To), NIC: id}
		if r.Via.IsValid() {
			route.Gateway = tcpip.AddrFromSlice(r.Via.AsSlice())
		}
		all = append(all, route)
	}
	return all
}

// broadcasting reports whether an address is the broadcast address of one of our
// subnets.
func (s *Stack) broadcasting(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.broadcasts, a) || slices.ContainsFunc(s.leases, func(l Lease) bool {
		b, ok := broadcastOf(l.Prefix)
		return ok && a == b
	})
}

// Advertised are the addresses and routes that router advertisements have made.
func (s *Stack) Advertised() []Lease {
	var all []Lease
	for _, card := range s.cards {
		if !card.Interface.AcceptRA {
			continue
		}
		id := s.names[card.Interface.Name]
		var routes []config.Route
		for _, r := range s.s.GetRouteTable() {
			dst := r.Destination.ID()
			if r.NIC != id || dst.Len() != 16 || slices.ContainsFunc(routesOf(id, card.Interface), sameRoute(r)) {
				continue
			}
			to, _ := netip.AddrFromSlice(dst.AsSlice())        // always 16 bytes
			via, _ := netip.AddrFromSlice(r.Gateway.AsSlice()) // invalid on the link
			routes = append(routes, config.Route{To: netip.PrefixFrom(to, r.Destination.Prefix()), Via: via})
		}
		for _, a := range s.s.NICInfo()[id].ProtocolAddresses {
			addr, _ := netip.AddrFromSlice(a.AddressWithPrefix.Address.AsSlice()) // 4 or 16 bytes
			p := netip.PrefixFrom(addr, a.AddressWithPrefix.PrefixLen)
			if addr.Is6() && !addr.IsLinkLocalUnicast() && !slices.Contains(card.Interface.Addresses, p) {
				all = append(all, Lease{Interface: card.Interface.Name, Prefix: p, Routes: routes})
			}
		}
	}
	return all
}
