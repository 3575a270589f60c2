package labtest

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// DHCPServer answers on one card of a host, from the kernel's own UDP. What it
// gives may be changed at any time.
type DHCPServer struct {
	conn net.PacketConn
	wg   sync.WaitGroup

	mu    sync.Mutex // guards the rest
	give  DHCPGift
	heard []*dhcpv4.DHCPv4
}

// DHCPGift is what a DHCPServer gives to whoever asks.
type DHCPGift struct {
	Server  netip.Addr
	Prefix  netip.Prefix
	Lasts   time.Duration
	Options []dhcpv4.Option // besides the mask
	Silent  bool            // nobody is answered
	Refuse  bool            // requests are refused
}

// DHCP serves on a card until the test ends.
func DHCP(t testing.TB, h *lab.Host, card string, give DHCPGift) *DHCPServer {
	t.Helper()
	s := &DHCPServer{give: give}
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), card) }); failed != nil {
			return failed
		}
		return err
	}}
	if err := h.Do(func() (err error) {
		s.conn, err = listen.ListenPacket(context.Background(), "udp4", ":67")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(s.serve)
	t.Cleanup(func() {
		s.conn.Close()
		s.wg.Wait()
	})
	return s
}

// Give changes what is given from now on.
func (s *DHCPServer) Give(change func(*DHCPGift)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.give)
}

// Heard are the messages that have arrived of a kind.
func (s *DHCPServer) Heard(kind dhcpv4.MessageType) []*dhcpv4.DHCPv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.heard), func(m *dhcpv4.DHCPv4) bool { return m.MessageType() != kind })
}

func (s *DHCPServer) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if m, err := dhcpv4.FromBytes(buf[:n]); err == nil {
			s.answer(m, from)
		}
	}
}

func (s *DHCPServer) answer(m *dhcpv4.DHCPv4, from net.Addr) {
	s.mu.Lock()
	s.heard = append(s.heard, m)
	give := s.give
	s.mu.Unlock()
	kind := dhcpv4.MessageTypeOffer
	switch asked := m.MessageType(); {
	case give.Silent, asked != dhcpv4.MessageTypeDiscover && asked != dhcpv4.MessageTypeRequest:
		return
	case asked == dhcpv4.MessageTypeRequest && (give.Refuse || !wants(m, give.Prefix.Addr())):
		kind = dhcpv4.MessageTypeNak
	case asked == dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
	}
	answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(give.Server.AsSlice())))
	if err != nil {
		return
	}
	if kind != dhcpv4.MessageTypeNak {
		answer.YourIPAddr = give.Prefix.Addr().AsSlice()
		answer.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(give.Prefix.Bits(), 32)))
		answer.UpdateOption(dhcpv4.OptIPAddressLeaseTime(give.Lasts))
		for _, o := range give.Options {
			answer.UpdateOption(o)
		}
	}
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	if udp, ok := from.(*net.UDPAddr); ok && m.IsUnicast() && !m.ClientIPAddr.IsUnspecified() && kind != dhcpv4.MessageTypeNak {
		to.IP = udp.IP // RFC 2131, 4.1
	}
	_, _ = s.conn.WriteTo(answer.ToBytes(), to) // the test ends
}

// wants reports whether a request is for an address.
func wants(m *dhcpv4.DHCPv4, a netip.Addr) bool {
	ip := m.RequestedIPAddress()
	if ip == nil {
		ip = m.ClientIPAddr
	}
	return ip.Equal(a.AsSlice())
}
