package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// configureDynamic is configure with wan0's addresses as given.
func (r *rig) configureDynamic(wan, rest string) {
	r.t.Helper()
	text := "interfaces:\n  wan0: " + wan + "\n  lan0: {addresses: [10.0.0.1/24, \"fd00:10::1/64\"]}\n" +
		rest + "admin: {socket: " + r.socket + "}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// gift is what the tests' server gives: the client's host is the router.
func gift(addr string, lasts time.Duration) labtest.DHCPGift {
	return labtest.DHCPGift{
		Server: netip.MustParseAddr("192.0.2.2"), Prefix: netip.MustParsePrefix(addr), Lasts: lasts,
		Options: []dhcpv4.Option{
			dhcpv4.OptRouter(net.IPv4(192, 0, 2, 2)), dhcpv4.OptDNS(net.IPv4(192, 0, 2, 53)), dhcpv4.OptNTPServers(net.IPv4(192, 0, 2, 123)),
			dhcpv4.OptHostName("box7"),
		},
	}
}

func (r *rig) iface(name string) admin.Interface {
	r.t.Helper()
	s, err := r.admin.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(s.Interfaces, func(i admin.Interface) bool { return i.Name == name })
	if i < 0 {
		r.t.Fatalf("no interface %s in %v", name, s.Interfaces)
	}
	return s.Interfaces[i]
}

// greet has a new connection echo a line.
func (r *rig) greet(addr string) {
	r.t.Helper()
	c := r.dial(addr)
	exchange(r.t, c, "hello\n", "hello\n")
	if err := c.Close(); err != nil {
		r.t.Error(err)
	}
}

// leased waits for an address from DHCP.
func (r *rig) leased(addr string) {
	r.t.Helper()
	want := netip.MustParsePrefix(addr)
	eventually(r.t, 20*time.Second, "wan0 has "+addr, func() bool {
		l := r.iface("wan0").DHCP
		return l != nil && l.State == "bound" && l.Address == want
	})
}

func TestServicesListenOnTheAddressFromDHCP(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	give := gift("192.0.2.50/24", 90*time.Minute)
	give.Silent = true
	server := labtest.DHCP(t, r.client, "c0", give)
	r.configureDynamic("{dhcp: true}", `services:
  echo: {type: proxy, listen: ["wan0:7", "lan0:7"], backends: ["10.0.0.21:7"]}
`)
	p := r.start() // it is ready without an address
	eventually(t, 10*time.Second, "a client that has asked", func() bool { return len(server.Heard(dhcpv4.MessageTypeDiscover)) > 0 })
	out, _, _ := r.run("status")
	contains(t, "status without an address", out, "wan0 by DHCP: no address (selecting", "10.0.0.1:7")
	if strings.Contains(out, "192.0.2.50") {
		t.Errorf("got status\n%s\nwant no address yet", out)
	}

	server.Give(func(g *labtest.DHCPGift) { g.Silent = false })
	r.leased("192.0.2.50/24")
	c := r.dial("192.0.2.50:7")
	exchange(t, c, "hello\n", "hello\n")
	out, _, _ = r.run("status")
	contains(t, "status", out, "192.0.2.50:7", "wan0 by DHCP: 192.0.2.50/24 from 192.0.2.2, for 1h", "bound", "router 192.0.2.2", "DNS 192.0.2.53", "NTP 192.0.2.123")
	if got := r.iface("wan0").DHCP.Hostname; got != "box7" {
		t.Errorf("got hostname %q, want box7", got)
	}
	r.configureDynamic("{dhcp: true}", `services:
  echo: {type: proxy, listen: ["wan0:7", "lan0:7"], backends: ["10.0.0.21:7"]}
  more: {type: echo, listen: "wan0:77"}
`)
	if out, errs, code := r.run("reload"); code != exitOK {
		t.Fatalf("reload: status %d, %s%s", code, out, errs)
	}
	r.greet("192.0.2.50:77") // what a reload brings listens there too
	exchange(t, c, "still\n", "still\n")
	c.Close()
	p.stop()

	// The next run asks for the same (INIT-REBOOT): a request that names no server.
	before := len(server.Heard(dhcpv4.MessageTypeRequest))
	discovers := len(server.Heard(dhcpv4.MessageTypeDiscover))
	p = r.start()
	r.leased("192.0.2.50/24")
	asked := server.Heard(dhcpv4.MessageTypeRequest)[before]
	if asked.ServerIdentifier() != nil || !asked.RequestedIPAddress().Equal(net.IPv4(192, 0, 2, 50)) {
		t.Errorf("got request\n%s\nwant one for 192.0.2.50 that names no server", asked.Summary())
	}
	if n := len(server.Heard(dhcpv4.MessageTypeDiscover)); n != discovers {
		t.Errorf("got %d discoveries after a restart, want none", n-discovers)
	}
	r.greet("192.0.2.50:7")
	p.stop()

	// And uses it without a word of the server, which has gone.
	server.Give(func(g *labtest.DHCPGift) { g.Silent = true })
	p = r.start()
	r.leased("192.0.2.50/24")
	out, _, _ = r.run("status")
	contains(t, "status without a server", out, "of the run before: no server answers")
	r.greet("192.0.2.50:7")
	p.stop()
}

func TestALeaseIsRenewedAndALostAddressEndsItsConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", 4*time.Second))
	r.configureDynamic("{dhcp: true}", `services:
  echo: {type: proxy, listen: ["wan0:7"], backends: ["10.0.0.21:7"]}
  own: {type: echo, listen: ["wan0:77"]}
`)
	p := r.start()
	r.leased("192.0.2.50/24")
	relayed, own := r.dial("192.0.2.50:7"), r.dial("192.0.2.50:77")
	eventually(t, 15*time.Second, "two renewals by unicast", func() bool {
		renewals := server.Heard(dhcpv4.MessageTypeRequest)
		return len(slices.DeleteFunc(renewals, func(m *dhcpv4.DHCPv4) bool {
			return !m.ClientIPAddr.Equal(net.IPv4(192, 0, 2, 50)) || !m.IsUnicast()
		})) >= 2
	})
	exchange(t, relayed, "renewed\n", "renewed\n")
	exchange(t, own, "renewed\n", "renewed\n")

	server.Give(func(g *labtest.DHCPGift) { g.Prefix = netip.MustParsePrefix("192.0.2.60/24") }) // a renewal is refused
	for _, c := range []net.Conn{relayed, own} {
		if err := c.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("got %v at the end of an address, want a reset", err)
		}
	}
	r.leased("192.0.2.60/24")
	out, _, _ := r.run("conns", "--closed")
	if n := strings.Count(out, "address_lost"); n != 2 {
		t.Errorf("got %d connections with reason address_lost, want 2:\n%s", n, out)
	}
	r.greet("192.0.2.60:7")
	r.greet("192.0.2.60:77")
	p.stop()
}

func TestAnAddressOfAnotherHostIsDeclined(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits 10 s, as RFC 2131 says")
	}
	t.Parallel()
	r := newRig(t, nil)
	labtest.Addr(t, r.client, "c0", "192.0.2.50/24")
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", time.Hour))
	r.configureDynamic("{dhcp: true}", "services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	p := r.start()
	eventually(t, 10*time.Second, "the address is declined", func() bool { return len(server.Heard(dhcpv4.MessageTypeDecline)) > 0 })
	declined := server.Heard(dhcpv4.MessageTypeDecline)[0]
	if !declined.RequestedIPAddress().Equal(net.IPv4(192, 0, 2, 50)) || !declined.ServerIdentifier().Equal(net.IPv4(192, 0, 2, 2)) {
		t.Errorf("got\n%s\nwant 192.0.2.50 declined to 192.0.2.2", declined.Summary())
	}
	out, _, _ := r.run("status")
	contains(t, "status", out, "no address (pausing", "192.0.2.50 on wan0 is already used by")
	server.Give(func(g *labtest.DHCPGift) { g.Prefix = netip.MustParsePrefix("192.0.2.60/24") })
	r.leased("192.0.2.60/24")
	r.greet("192.0.2.60:77")
	p.stop()
}

func TestAddressesFromOthersAreThereAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", time.Hour))
	r.configureDynamic("{dhcp: true, accept_ra: true}", "services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	l := r.startLine()
	r.leased("192.0.2.50/24")
	six := r.advertise("fd77::", 3600)
	eventually(t, 10*time.Second, "an address by a router advertisement", func() bool {
		return slices.ContainsFunc(r.iface("wan0").Addresses, func(p netip.Prefix) bool { return p.Addr() == six })
	})
	labtest.Addr(t, r.client, "c0", "fd77::2/64")
	c4, c6 := r.dial("192.0.2.50:77"), r.dial(netip.AddrPortFrom(six, 77).String())
	exchange(t, c4, "before\n", "before\n")
	exchange(t, c6, "before\n", "before\n")
	requests := len(server.Heard(dhcpv4.MessageTypeRequest))
	l.upgrade()
	exchange(t, c4, "after\n", "after\n")
	exchange(t, c6, "after\n", "after\n")
	r.greet("192.0.2.50:77")
	r.greet(netip.AddrPortFrom(six, 77).String())
	if n := len(server.Heard(dhcpv4.MessageTypeRequest)); n != requests {
		t.Errorf("got %d requests after an upgrade, want none: the lease goes on", n-requests)
	}
	if l := r.iface("wan0").DHCP; l == nil || l.State != "bound" || l.Left == nil || *l.Left > time.Hour {
		t.Errorf("got lease %+v after an upgrade, want the one before", l)
	}
}

// advertise sends a router advertisement of a /64 on the client's wire, valid for
// some seconds, and returns the address that wan0 makes of it.
func (r *rig) advertise(prefix string, seconds uint32) netip.Addr {
	r.t.Helper()
	router, err := r.client.Link("c0")
	if err != nil {
		r.t.Fatal(err)
	}
	box, err := r.box.Link("wan0")
	if err != nil {
		r.t.Fatal(err)
	}
	frame := routerAdvertisement(router.MAC, netip.MustParseAddr(prefix), seconds)
	if err := labtest.Raw(r.t, r.client, "c0").Send(frame); err != nil {
		r.t.Fatal(err)
	}
	return eui64(netip.MustParseAddr(prefix), box.MAC)
}

// eui64 is the address of a card in a /64 (RFC 4291, appendix A).
func eui64(prefix netip.Addr, mac net.HardwareAddr) netip.Addr {
	b := prefix.As16()
	copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b)
}

// routerAdvertisement is a frame with one prefix, on the link and to make
// addresses of, both for some seconds (RFC 4861, 4.2 and 4.6.2).
func routerAdvertisement(mac net.HardwareAddr, prefix netip.Addr, seconds uint32) []byte {
	src, dst := eui64(netip.MustParseAddr("fe80::"), mac).As16(), netip.MustParseAddr("ff02::1").As16()
	ra := []byte{134, 0, 0, 0, 64, 0, 0x07, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	ra = append(append(ra, 1, 1), mac...)
	ra = append(ra, 3, 4, 64, 0xc0)
	ra = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(ra, seconds), seconds)
	ra = append(ra, 0, 0, 0, 0)
	ra = append(ra, prefix.AsSlice()...)
	pseudo := slices.Concat(src[:], dst[:], []byte{0, 0, 0, byte(len(ra)), 0, 0, 0, 58}, ra)
	var sum uint32
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ra[2:], ^uint16(sum))
	ip := append([]byte{0x60, 0, 0, 0, 0, byte(len(ra)), 58, 255}, slices.Concat(src[:], dst[:])...)
	return slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, mac, []byte{0x86, 0xdd}, ip, ra)
}

func TestAfterACrashPeersOnAnAddressFromDHCPAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", time.Hour))
	r.configureDynamic("{dhcp: true}", "services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	p := r.start()
	r.leased("192.0.2.50/24")
	c := r.dial("192.0.2.50:77")
	exchange(t, c, "hello\n", "hello\n")
	r.journalledAll(map[string]int{"wan0": 1})
	p.crash()
	p = r.start()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %v after a crash, want a reset", err)
	}
	r.leased("192.0.2.50/24")
	c = r.dial("192.0.2.50:77")
	exchange(t, c, "hello\n", "hello\n")
	r.journalledAll(map[string]int{"wan0": 1})
	p.crash()

	// The address is another host's by now: nobody there is asked in its name.
	server.Give(func(g *labtest.DHCPGift) { g.Prefix = netip.MustParsePrefix("192.0.2.60/24") })
	p = r.start()
	r.leased("192.0.2.60/24")
	eventually(t, 20*time.Second, "a sweep that has left it out", func() bool {
		s, err := r.admin.Status(t.Context())
		return err == nil && s.Sweep != nil && s.Sweep.Skipped == 1 && s.Sweep.Asked == 0 && s.Sweep.Left == 0
	})
	p.stop()
}

// A backend that is not on the link, behind the router that the server names.
func TestTheRouterOfALeaseLeadsToBackends(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.Addr(t, r.client, "lo", "198.51.100.1/32")
	labtest.Echo(t, r.client, "198.51.100.1:7")
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", 6*time.Second))
	r.configureDynamic("{dhcp: true}", "services:\n  far: {type: proxy, listen: \"wan0:7\", backends: [\"198.51.100.1:7\"]}\n")
	p := r.start()
	r.leased("192.0.2.50/24")
	r.greet("192.0.2.50:7")
	server.Give(func(g *labtest.DHCPGift) { // a renewal without a router in it, but with one that says nothing of the default
		_, ten, err := net.ParseCIDR("10.99.0.0/16")
		if err != nil {
			t.Error(err)
			return
		}
		g.Options = []dhcpv4.Option{dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: ten, Router: net.IPv4(192, 0, 2, 2)})}
	})
	eventually(t, 20*time.Second, "no default route any more", func() bool { return len(r.iface("wan0").DHCP.Routers) == 0 })
	c := r.dial("192.0.2.50:7")
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v with the backend out of reach, want an end", err)
	}
	p.stop()
}

func TestServicesFollowWhatRoutersAdvertise(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configureDynamic("{accept_ra: true}", "services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	p := r.start()
	six := r.advertise("fd77::", 6)
	labtest.Addr(t, r.client, "c0", "fd77::2/64")
	has := func() bool {
		return slices.ContainsFunc(r.iface("wan0").Addresses, func(p netip.Prefix) bool { return p.Addr() == six })
	}
	eventually(t, 10*time.Second, "an address", has)
	c := r.dial(netip.AddrPortFrom(six, 77).String())
	exchange(t, c, "hello\n", "hello\n")
	eventually(t, 10*time.Second, "no address any more", func() bool { return !has() })
	eventually(t, 10*time.Second, "the connection has ended", func() bool {
		out, _, _ := r.run("conns", "--closed")
		return strings.Contains(out, "address_lost")
	})
	out, _, _ := r.run("status")
	if strings.Contains(out, six.String()) {
		t.Errorf("got status\n%s\nwant nothing of %s", out, six)
	}
	six2 := r.advertise("fd78::", 3600)
	eventually(t, 10*time.Second, "another address", func() bool {
		return slices.ContainsFunc(r.iface("wan0").Addresses, func(p netip.Prefix) bool { return p.Addr() == six2 })
	})
	labtest.Addr(t, r.client, "c0", "fd78::2/64")
	r.greet(netip.AddrPortFrom(six2, 77).String())
	p.stop()
}
