package stack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/stack"
)

func TestARPRequestsForOurAddressAloneAreAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	raw := labtest.Raw(t, r.peer, "eth0")
	mac := macOf(t, r.peer, "eth0")
	for _, target := range []string{"10.9.0.9", "10.9.0.1"} { // the second answer shows that the first is not late
		if err := raw.Send(arp(mac, netip.MustParseAddr("10.9.0.77"), netip.MustParseAddr(target))); err != nil {
			t.Fatal(err)
		}
	}
	reply := nextARP(t, raw)
	for reply.Op() != header.ARPReply { // our announcement may still be on its way
		reply = nextARP(t, raw)
	}
	if netip.AddrFrom4([4]byte(reply.ProtocolAddressSender())) != box4 {
		t.Errorf("the first answer is of %v", reply.ProtocolAddressSender())
	}
	if got, want := net.HardwareAddr(reply.HardwareAddressSender()).String(), macOf(t, r.box, "eth0").String(); got != want {
		t.Errorf("10.9.0.1 is at %v, want %v", got, want)
	}
}

func nextARP(t *testing.T, raw *lab.Raw) header.ARP {
	t.Helper()
	for {
		f, err := raw.Recv(limit(t))
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := arpIn(f.Data); ok {
			return h
		}
	}
}

func TestAddressesAreAnnouncedWhenTaken(t *testing.T) {
	t.Parallel()
	w := wired(t, want{})
	seen := labtest.Capture(t, w.peer, "eth0")
	if err := w.start(t, want{}); err != nil {
		t.Fatal(err)
	}
	mac := macOf(t, w.box, "eth0").String()
	within(t, 5*time.Second, "a gratuitous ARP request", func() bool {
		for _, f := range seen.Frames() {
			h, ok := arpIn(f.Data)
			if !ok || f.Outgoing || string(h.ProtocolAddressSender()) != string(h.ProtocolAddressTarget()) {
				continue
			}
			return net.HardwareAddr(h.HardwareAddressSender()).String() == mac &&
				header.Ethernet(f.Data).DestinationAddress() == header.EthernetBroadcastAddress &&
				netip.AddrFrom4([4]byte(h.ProtocolAddressSender())) == box4
		}
		return false
	})
	within(t, 5*time.Second, "an unsolicited neighbour advertisement", func() bool {
		for _, f := range seen.Frames() {
			ip, icmp, ok := icmp6In(f.Data)
			if !ok || f.Outgoing || icmp.Type() != header.ICMPv6NeighborAdvert {
				continue
			}
			na := header.NDPNeighborAdvert(icmp.MessageBody())
			if na.TargetAddress() == tcpipAddr(box6) && na.OverrideFlag() && !na.SolicitedFlag() &&
				ip.DestinationAddress() == header.IPv6AllNodesMulticastAddress && ip.HopLimit() == 255 {
				return true
			}
		}
		return false
	})
}

func TestAnAddressThatAnotherHostHasIsNotTaken(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := wired(t, want{})
			bits := "/24"
			if f.box.Is6() {
				bits = "/64"
			}
			labtest.Addr(t, w.peer, "eth0", f.box.String()+bits)
			seen := labtest.Capture(t, w.peer, "eth0")
			err := w.start(t, want{})
			if err == nil {
				t.Fatal("the address was taken from its holder")
			}
			for _, name := range []string{f.box.String(), "eth0", macOf(t, w.peer, "eth0").String()} {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%q does not name %s", err, name)
				}
			}
			for _, frame := range seen.Frames() {
				if h, ok := arpIn(frame.Data); ok && !frame.Outgoing && string(h.ProtocolAddressSender()) == string(box4.AsSlice()) {
					t.Error("the address was announced nevertheless")
				}
			}
		})
	}
}

func TestNewEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := wired(t, want{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := stack.New(ctx, stack.Options{
		Config: &config.Config{Policies: policies()},
		Links: []stack.Link{{
			Interface: config.Interface{Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(box4, 24)}},
			Endpoint:  w.card.Port(0),
		}},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("New says %v, want %v", err, context.Canceled)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		if err := ping(r.peer, f.box, time.Second); err != nil {
			t.Errorf("ping %v: %v", f.box, err)
		}
	}
	if err := ping(r.peer, netip.MustParseAddr("10.9.0.9"), 50*time.Millisecond); err == nil {
		t.Error("an address of nobody answers")
	}
}

// ping sends an echo request from a socket that needs no privilege, icmp(7),
// and waits for the answer.
func ping(h *lab.Host, to netip.Addr, patience time.Duration) error {
	return h.Do(func() error {
		fd, sa, kind := -1, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(to.AsSlice()[:4])}), byte(header.ICMPv4Echo)
		domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
		if to.Is6() {
			sa, kind = &unix.SockaddrInet6{Addr: to.As16()}, byte(header.ICMPv6EchoRequest)
			domain, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
		}
		if err := allowPing(h); err != nil {
			return err
		}
		fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return err
		}
		request := make([]byte, 8, 64)
		request[0] = kind
		binary.BigEndian.PutUint16(request[6:], 1)
		if err := unix.Sendto(fd, append(request, "is anybody there?"...), 0, sa); err != nil {
			return err
		}
		answer := make([]byte, 100)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		if n < 8 || string(answer[8:n]) != "is anybody there?" {
			return errors.New("the answer holds something else")
		}
		return nil
	})
}

func allowPing(h *lab.Host) error { return h.Sysctl("net.ipv4.ping_group_range", "0 0") }

func TestConnectionsLeaveByGatewayAndStaticRoute(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{
		link: func(i *config.Interface) {
			i.Gateways = []netip.Addr{peer4, peer6}
			i.Routes = []config.Route{{To: netip.MustParsePrefix("10.30.0.0/16"), Via: netip.MustParseAddr("10.9.0.3")}}
		},
		peer: func(h *lab.Host) {
			labtest.Addr(t, h, "eth0", "10.9.0.3/24")
			labtest.Addr(t, h, "lo", "10.20.0.1/32", "10.30.0.1/32", "fd20::1/128")
		},
	})
	seen := labtest.Capture(t, r.peer, "eth0")
	for _, to := range []string{"10.20.0.1:7", "10.30.0.1:7", "[fd20::1]:7"} {
		labtest.Echo(t, r.peer, to)
		c, err := r.dial(t, netip.MustParseAddrPort(to), "default")
		if err != nil {
			t.Errorf("dial %s: %v", to, err)
			continue
		}
		write(t, c, "x")
		if got := read(t, c, 1); got != "x" {
			t.Errorf("%s answers %q", to, got)
		}
	}
	asked := make(map[string]bool)
	for _, f := range seen.Frames() {
		if h, ok := arpIn(f.Data); ok && !f.Outgoing && h.Op() == header.ARPRequest {
			asked[net.IP(h.ProtocolAddressTarget()).String()] = true
		}
	}
	if !asked["10.9.0.2"] || !asked["10.9.0.3"] || asked["10.20.0.1"] || asked["10.30.0.1"] {
		t.Errorf("ARP asked for %v, want the two gateways", asked)
	}
}
