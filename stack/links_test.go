package stack_test

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// crossing is a stack with two cards, a host behind each.
type crossing struct {
	box, left, right *lab.Host
	*stack.Stack
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	x := &crossing{box: labtest.Host(t, "box"), left: labtest.Host(t, "left"), right: labtest.Host(t, "right")}
	silent(t, x.box)
	labtest.Wire(t, x.box, "eth0", x.left, "eth0")
	labtest.Wire(t, x.box, "eth1", x.right, "eth0")
	labtest.Addr(t, x.left, "eth0", "10.9.0.2/24", "fd09::2/64")
	labtest.Addr(t, x.right, "eth0", "10.8.0.2/24", "fd08::2/64")
	labtest.Route(t, x.left, "10.8.0.0/24", "10.9.0.1")
	labtest.Route(t, x.left, "fd08::/64", "fd09::1")
	labtest.Route(t, x.right, "10.9.0.0/24", "10.8.0.1")
	labtest.Route(t, x.right, "fd09::/64", "fd08::1")
	cards := []config.Interface{
		{Name: "eth0", Addresses: prefixes("10.9.0.1/24", "fd09::1/64"), Gateways: []netip.Addr{peer4, peer6}},
		{Name: "eth1", Addresses: prefixes("10.8.0.1/24", "fd08::1/64")},
	}
	var ends []*netif.Endpoint
	var links []stack.Link
	flows := flow.New(flow.Options{Policies: policies()})
	for _, c := range cards {
		end := openCard(t, x.box, c.Name, &stack.Gate{}, flows.Card())
		ends = append(ends, end)
		links = append(links, stack.Link{Interface: c, Endpoint: end.Port(0)})
	}
	s, err := stack.New(limit(t), stack.Options{
		Flows:  flows,
		Config: &config.Config{Interfaces: cards, Policies: policies()}, Links: links,
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Stack = s
	t.Cleanup(func() {
		for _, e := range ends {
			_ = e.Close() // labtest.Close reports it
		}
		s.Close()
	})
	return x
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func TestNothingIsForwardedBetweenLinks(t *testing.T) {
	t.Parallel()
	x := newCrossing(t)
	l, err := x.Listen(netip.MustParseAddrPort("10.9.0.1:80"), "default")
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, l)
	seen := labtest.Capture(t, x.right, "eth0")
	// A segment for the other side, sent to the box's card by who takes it for a router.
	raw := labtest.Raw(t, x.left, "eth0")
	mac, box := macOf(t, x.left, "eth0"), macOf(t, x.box, "eth0")
	packet := segment(netip.MustParseAddrPort("10.9.0.2:4000"), netip.MustParseAddrPort("10.8.0.2:80"), header.TCPFlagSyn, 1, 0)
	if err := raw.Send(ethernet(mac, box, header.IPv4ProtocolNumber, packet)); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"10.8.0.2", "fd08::2"} {
		if err := ping(x.left, netip.MustParseAddr(to), 50e6); err == nil {
			t.Errorf("%s on the other side answers", to)
		}
	}
	// What came later than those has been answered: they are through.
	client, err := x.left.Dial(limit(t), "tcp", "10.9.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, client)
	for _, f := range seen.Frames() {
		if !f.Outgoing && meantFor(f.Data, "10.8.0.2", "fd08::2") {
			t.Errorf("came out at the other side: %x", f.Data)
		}
	}
}

// meantFor reports whether a frame is a packet for one of the addresses, or
// asks for its hardware address.
func meantFor(frame []byte, addrs ...string) bool {
	packet := frame[header.EthernetMinimumSize:]
	for _, a := range addrs {
		want := tcpipAddr(netip.MustParseAddr(a))
		switch header.Ethernet(frame).Type() {
		case header.IPv4ProtocolNumber:
			if header.IPv4(packet).DestinationAddress() == want {
				return true
			}
		case header.ARPProtocolNumber:
			if string(header.ARP(packet).ProtocolAddressTarget()) == string(want.AsSlice()) {
				return true
			}
		case header.IPv6ProtocolNumber:
			to := header.IPv6(packet).DestinationAddress()
			if to == want || want.Len() == header.IPv6AddressSize && to == header.SolicitedNodeAddr(want) {
				return true
			}
		}
	}
	return false
}

func TestTheNearestRouteIsTaken(t *testing.T) {
	t.Parallel()
	x := newCrossing(t)
	seen := labtest.Capture(t, x.left, "eth0")
	// The default route of the first card stands before the second one's subnet.
	for _, to := range []string{"10.8.0.2:7", "[fd08::2]:7"} {
		labtest.Echo(t, x.right, to)
		r := &rig{Stack: x.Stack}
		if _, err := r.dial(t, netip.MustParseAddrPort(to), "default"); err != nil {
			t.Errorf("dial %s: %v", to, err)
		}
	}
	for _, s := range seen.Segments() {
		t.Errorf("%v left by the wrong card", s)
	}
}

func TestAnAddressAnswersOnItsOwnCard(t *testing.T) {
	t.Parallel()
	x := newCrossing(t)
	for _, to := range []string{"10.9.0.1", "fd09::1"} {
		if err := ping(x.left, netip.MustParseAddr(to), 1e9); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
	}
	for _, to := range []string{"10.8.0.1", "fd08::1"} {
		if err := ping(x.right, netip.MustParseAddr(to), 1e9); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
	}
}
