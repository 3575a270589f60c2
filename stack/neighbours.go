package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A stack that takes connections over has to know its neighbours: it would ask
// for their addresses when all connections have something to send, and gVisor
// keeps no more than 256 packets for each meanwhile. What else was under way would
// be sent again after a retransmission timeout.

// savedNeighbour is whom a card's frames reach.
type savedNeighbour struct {
	Card string
	Addr netip.Addr
	MAC  []byte
}

// neighbours are those that the stack knows.
func (s *Stack) neighbours() (all []savedNeighbour) {
	for name, id := range s.names {
		for _, protocol := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
			list, err := s.s.Neighbors(id, protocol)
			if err != nil {
				continue // it will ask
			}
			for _, n := range list {
				switch n.State {
				case gstack.Reachable, gstack.Stale, gstack.Delay, gstack.Probe, gstack.Static:
					addr, _ := netip.AddrFromSlice(n.Addr.AsSlice()) // gVisor has no others
					all = append(all, savedNeighbour{name, addr, []byte(n.LinkAddr)})
				}
			}
		}
	}
	return all
}

// meet makes neighbours known, as if each had asked for our address (RFC 826;
// RFC 4861, 7.2.3): frames go there at once, and whether that is still right is
// found out as usual.
func (s *Stack) meet(all []savedNeighbour) {
	for _, n := range all {
		nic := s.nics[s.names[n.Card]]
		if nic == nil || len(n.MAC) != 6 || !n.Addr.IsValid() {
			continue // a card that there is not any more
		}
		_ = nic.HandleNeighborProbe(protocolOf(n.Addr), tcpip.AddrFromSlice(n.Addr.AsSlice()), tcpip.LinkAddress(n.MAC)) // or it will ask
	}
}

// cardMeeter is gVisor's ARP, which is shown each card: only so can neighbours be
// told to one.
type cardMeeter struct {
	gstack.NetworkProtocol
	s *Stack
}

func (s *Stack) meetCards(g *gstack.Stack) gstack.NetworkProtocol {
	return &cardMeeter{arp.NewProtocol(g), s}
}

// NewEndpoint implements stack.NetworkProtocol.
func (m *cardMeeter) NewEndpoint(nic gstack.NetworkInterface, d gstack.TransportDispatcher) gstack.NetworkEndpoint {
	m.s.nics[nic.ID()] = nic
	return m.NetworkProtocol.NewEndpoint(nic, d)
}
