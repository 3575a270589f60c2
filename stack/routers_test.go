package stack_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

var advertised = netip.MustParseAddr("fd77::")

// madeAddress is the address that the box makes of the advertised prefix.
func madeAddress(t *testing.T, r *rig) netip.Addr {
	t.Helper()
	local := header.LinkLocalAddr(tcpip.LinkAddress(macOf(t, r.box, "eth0")))
	b := advertised.As16()
	copy(b[8:], local.AsSlice()[8:])
	return netip.AddrFrom16(b)
}

func solicitations(c *lab.Capture) (n int) {
	for _, f := range c.Frames() {
		if _, icmp, ok := icmp6In(f.Data); ok && !f.Outgoing && icmp.Type() == header.ICMPv6RouterSolicit {
			n++
		}
	}
	return n
}

func TestARouterIsAskedForAndObeyedWhereConfigured(t *testing.T) {
	t.Parallel()
	r := wired(t, want{})
	seen := labtest.Capture(t, r.peer, "eth0")
	if err := r.start(t, want{link: func(i *config.Interface) { i.AcceptRA = true }}); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "a router solicitation", func() bool { return solicitations(seen) > 0 })

	labtest.Addr(t, r.peer, "eth0", "fd77::1/64")
	labtest.Addr(t, r.peer, "lo", "fd20::1/128")
	labtest.Echo(t, r.peer, "[fd20::1]:7")
	raw := labtest.Raw(t, r.peer, "eth0")
	if err := raw.Send(advertise(macOf(t, r.peer, "eth0"), advertised)); err != nil {
		t.Fatal(err)
	}
	made := madeAddress(t, r)
	within(t, 5*time.Second, "an address of the advertised prefix", func() bool {
		return ping(r.peer, made, 100*time.Millisecond) == nil
	})
	var c interface{ LocalAddr() netip.AddrPort }
	within(t, 5*time.Second, "the default route", func() bool {
		conn, err := r.dial(t, netip.MustParseAddrPort("[fd20::1]:7"), "default")
		c = conn
		return err == nil
	})
	t.Logf("dialled through the router from %v", c.LocalAddr())
}

func TestAnAdvertisementIsIgnoredElsewhere(t *testing.T) {
	t.Parallel()
	w := wired(t, want{})
	seen := labtest.Capture(t, w.peer, "eth0")
	if err := w.start(t, want{}); err != nil {
		t.Fatal(err)
	}
	labtest.Addr(t, w.peer, "eth0", "fd77::1/64")
	raw := labtest.Raw(t, w.peer, "eth0")
	if err := raw.Send(advertise(macOf(t, w.peer, "eth0"), advertised)); err != nil {
		t.Fatal(err)
	}
	if err := ping(w.peer, box6, time.Second); err != nil { // what came before it is through
		t.Fatal(err)
	}
	if err := ping(w.peer, madeAddress(t, w), 300*time.Millisecond); err == nil {
		t.Error("an address was made of the advertised prefix")
	}
	if _, err := w.Dial(netip.MustParseAddrPort("[fd20::1]:7"), "default"); err == nil {
		t.Error("the advertised default route is used")
	}
	if n := solicitations(seen); n != 0 {
		t.Errorf("%d router solicitations were sent", n)
	}
}

func TestAnAdvertisedAddressOfAnotherHostIsGivenUp(t *testing.T) {
	t.Parallel()
	r := wired(t, want{})
	labtest.Addr(t, r.peer, "eth0", "fd77::1/64", madeAddress(t, r).String()+"/64")
	var log journal
	if err := r.start(t, want{log: log.log(), link: func(i *config.Interface) { i.AcceptRA = true }}); err != nil {
		t.Fatal(err)
	}
	raw := labtest.Raw(t, r.peer, "eth0")
	if err := raw.Send(advertise(macOf(t, r.peer, "eth0"), advertised)); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the address given up", func() bool { return log.lines("already used by another host") == 1 })
	if got := log.lines(macOf(t, r.peer, "eth0").String()); got != 1 {
		t.Errorf("%d lines name its holder, want 1", got)
	}
	if _, err := r.Listen(netip.AddrPortFrom(madeAddress(t, r), 80), "default"); err == nil {
		t.Error("listens on an address of another host")
	}
}
