package netif

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/lastack/lastack/internal/lab"
)

// The services of a rig's stack.
const (
	echoPort = "7"    // returns what it gets
	bulkPort = "2000" // the card's side of lab.Bulk with toCard and toPeer
)

// toCard and toPeer are what the two sides of a transfer send.
func toCard() lab.Blob { return lab.Blob{Seed: 1, Size: bulkSize()} }
func toPeer() lab.Blob { return lab.Blob{Seed: 2, Size: bulkSize()} }

func bulkSize() int64 {
	if testing.Short() {
		return 1 << 20
	}
	return 8 << 20
}

// newStack attaches a stack with two addresses to a port, until the test ends.
func newStack(t testing.TB, port *Port, v4 [4]byte, v6 [16]byte) *gstack.Stack {
	t.Helper()
	s := gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	t.Cleanup(s.Destroy)
	sack := tcpip.TCPSACKEnabled(true)
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	// RACK waits for a timeout after every second segment once a whole window is lost.
	recovery := tcpip.TCPRecovery(0)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &rcv, &snd, &recovery} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatalf("set %T: %v", o, err)
		}
	}
	if err := s.CreateNIC(1, port); err != nil {
		t.Fatalf("create NIC: %v", err)
	}
	for proto, addr := range map[tcpip.NetworkProtocolNumber]tcpip.AddressWithPrefix{
		ipv4.ProtocolNumber: {Address: tcpip.AddrFrom4(v4), PrefixLen: 24},
		ipv6.ProtocolNumber: {Address: tcpip.AddrFrom16(v6), PrefixLen: 64},
	} {
		if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: addr}, gstack.AddressProperties{}); err != nil {
			t.Fatalf("add address: %v", err)
		}
		s.AddRoute(tcpip.Route{Destination: addr.Subnet(), NIC: 1})
	}
	return s
}

// serve runs the services on a stack until the test ends.
func serve(t testing.TB, s *gstack.Stack) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	owned := &sync.WaitGroup{}
	for port, handle := range map[uint16]func(net.Conn) error{
		7:    echoBack,
		2000: func(c net.Conn) error { return lab.Exchange(ctx, c, toPeer(), toCard()) },
	} {
		// An IPv6 listener without an address takes IPv4 too.
		l, err := gonet.ListenTCP(s, tcpip.FullAddress{Port: port}, ipv6.ProtocolNumber)
		if err != nil {
			t.Fatal(err)
		}
		owned.Go(func() { accept(ctx, t, l, owned, handle) })
	}
	t.Cleanup(owned.Wait)
	t.Cleanup(cancel)
}

// accept gives each connection to handle, until the listener is closed.
func accept(ctx context.Context, t testing.TB, l net.Listener, owned *sync.WaitGroup, handle func(net.Conn) error) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		owned.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			if err := handle(c); err != nil && ctx.Err() == nil {
				t.Errorf("the stack's side: %v", err)
			}
			_ = c.Close() // its half is closed already, or it has failed
		})
	}
}

func echoBack(c net.Conn) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64<<10)); err != nil {
		return err
	}
	return c.(*gonet.TCPConn).CloseWrite()
}

// dialStack connects from a stack to an address.
func dialStack(t testing.TB, s *gstack.Stack, addr string) net.Conn {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	proto := ipv4.ProtocolNumber
	if to.Addr().Is6() {
		proto = ipv6.ProtocolNumber
	}
	c, err := gonet.DialContextTCP(limit(t), s, tcpip.FullAddress{Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()}, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // at the latest
	return c
}
