package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/config"
)

// Address conflict detection: probes, and the wait after each. RFC 5227, 1.1
// takes three probes one to two seconds apart; at a start nobody waits that
// long, and a host on the same link answers within a millisecond.
const (
	conflictProbes = 3
	conflictWait   = 150 * time.Millisecond
)

type dadEndpoint interface {
	SetDADConfigurations(gstack.DADConfigurations)
}

// linkAddresses are the addresses to take on one interface: the configured
// ones, and for IPv6 the link-local one that neighbours expect (RFC 4291, 2.8).
func linkAddresses(l Link) []netip.Prefix {
	list := l.Interface.Addresses
	for _, p := range list {
		if p.Addr().Is6() {
			ll := header.LinkLocalAddr(l.Endpoint.LinkAddress())
			addr, _ := netip.AddrFromSlice(ll.AsSlice()) // always 16 bytes
			return append(append([]netip.Prefix{}, list...), netip.PrefixFrom(addr, 64))
		}
	}
	if l.Interface.AcceptRA {
		ll := header.LinkLocalAddr(l.Endpoint.LinkAddress())
		addr, _ := netip.AddrFromSlice(ll.AsSlice()) // always 16 bytes
		return append(append([]netip.Prefix{}, list...), netip.PrefixFrom(addr, 64))
	}
	return list
}

// takeAddresses asks on all interfaces at once whether somebody holds one of
// our addresses, and takes and announces them if not; those that are owned
// already are taken without a word.
func (s *Stack) takeAddresses(ctx context.Context, links []Link, owned bool) error {
	if !owned {
		conflicts, err := s.askAll(links)
		if err != nil {
			return err
		}
		if err := conflicts.wait(ctx); err != nil {
			return err
		}
	}
	for _, l := range links {
		id := s.names[l.Interface.Name]
		s.setDAD(id, gstack.DADConfigurations{})
		for _, p := range linkAddresses(l) {
			if err := s.addAddress(id, p); err != nil {
				return fmt.Errorf("take address %s on %s: %w", p, l.Interface.Name, err)
			}
			if !owned {
				s.announce(id, l, p.Addr())
			}
		}
		if l.Interface.AcceptRA {
			// For addresses that routers will make us make (RFC 4862, 5.4).
			s.setDAD(id, gstack.DefaultDADConfigurations())
		}
	}
	return nil
}

type answer struct {
	addr   netip.Addr
	link   string
	taken  bool
	holder tcpip.LinkAddress // who has taken it, "" if that is not known
}

// refusal is what an operator reads of an address in use.
func (a answer) refusal() error {
	return &InUseError{Addr: a.addr, Interface: a.link, Holder: net.HardwareAddr(a.holder)}
}

// InUseError says that another host has an address.
type InUseError struct {
	Addr      netip.Addr
	Interface string
	Holder    net.HardwareAddr // empty if it is not known
}

// Error is a sentence for the operator.
func (e *InUseError) Error() string {
	who := "another host"
	if len(e.Holder) > 0 {
		who = e.Holder.String()
	}
	return fmt.Sprintf("address %s on %s is already used by %s: give one of the two another address", e.Addr, e.Interface, who)
}

// answers collects the results of n questions.
type answers struct {
	n  int
	ch chan answer
}

func (s *Stack) askAll(links []Link) (answers, error) {
	a := answers{}
	for _, l := range links {
		a.n += len(linkAddresses(l))
	}
	a.ch = make(chan answer, a.n)
	for _, l := range links {
		id := s.names[l.Interface.Name]
		s.setDAD(id, gstack.DADConfigurations{DupAddrDetectTransmits: conflictProbes, RetransmitTimer: conflictWait})
		for _, p := range linkAddresses(l) {
			if err := s.ask(id, l.Interface.Name, p.Addr(), a.ch); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

// ask asks whether somebody holds an address; the answer goes to ch, which has
// room for it.
func (s *Stack) ask(id tcpip.NICID, link string, addr netip.Addr, ch chan<- answer) error {
	result := answer{addr: addr, link: link}
	_, err := s.s.CheckDuplicateAddress(id, protocolOf(addr), tcpip.AddrFromSlice(addr.AsSlice()), func(r gstack.DADResult) {
		if dup, ok := r.(*gstack.DADDupAddrDetected); ok {
			result.taken, result.holder = true, dup.HolderLinkAddress
		}
		ch <- result
	})
	if err != nil {
		return fmt.Errorf("ask for address %s on %s: %w", addr, link, toError(err))
	}
	return nil
}

func (a answers) wait(ctx context.Context) error {
	var taken []error
	for range a.n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-a.ch:
			if r.taken {
				taken = append(taken, r.refusal())
			}
		}
	}
	return errors.Join(taken...)
}

func (s *Stack) setDAD(id tcpip.NICID, c gstack.DADConfigurations) {
	for _, proto := range []tcpip.NetworkProtocolNumber{header.ARPProtocolNumber, ipv6.ProtocolNumber} {
		s.setDADOf(id, proto, c)
	}
}

// setDADOf is setDAD for ARP or for IPv6 alone.
func (s *Stack) setDADOf(id tcpip.NICID, proto tcpip.NetworkProtocolNumber, c gstack.DADConfigurations) {
	ep, err := s.s.GetNetworkEndpoint(id, proto)
	if err != nil {
		return // the NIC was created with both
	}
	if d, ok := ep.(dadEndpoint); ok {
		d.SetDADConfigurations(c)
	}
}

func (s *Stack) addAddress(id tcpip.NICID, p netip.Prefix) error {
	return toError(s.s.AddProtocolAddress(id, tcpip.ProtocolAddress{
		Protocol: protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address:   tcpip.AddrFromSlice(p.Addr().AsSlice()),
			PrefixLen: p.Bits(),
		},
	}, gstack.AddressProperties{PEB: gstack.CanBePrimaryEndpoint}))
}

// routesOf are the routes of one interface: connected, static, default.
func routesOf(id tcpip.NICID, i config.Interface) []tcpip.Route {
	var routes []tcpip.Route
	connected := i.Addresses
	for _, p := range connected {
		routes = append(routes, tcpip.Route{Destination: subnet(p), NIC: id})
	}
	routes = append(routes, tcpip.Route{Destination: subnet(netip.MustParsePrefix("fe80::/64")), NIC: id})
	for _, r := range i.Routes {
		routes = append(routes, tcpip.Route{Destination: subnet(r.To), Gateway: tcpip.AddrFromSlice(r.Via.AsSlice()), NIC: id})
	}
	for _, g := range i.Gateways {
		all := header.IPv4EmptySubnet
		if g.Is6() {
			all = header.IPv6EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: all, Gateway: tcpip.AddrFromSlice(g.AsSlice()), NIC: id})
	}
	return routes
}

func subnet(p netip.Prefix) tcpip.Subnet {
	p = p.Masked()
	return tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}.Subnet()
}
