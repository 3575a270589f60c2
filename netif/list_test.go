package netif

import (
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestListShowsEveryLink(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	dir := t.TempDir()
	r.do(func() {
		eth0 := r.link("eth0")
		r.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
		r.must(netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: eth0.Attrs().Index, MTU: 1400}}))
		want := map[string]Card{
			"lo":   {Kind: "loopback", MTU: 65536, Up: true, Reason: "the loopback link is the kernel's own and leads to no network"},
			"eth0": {Kind: "veth", MTU: 1500, Up: true, Driver: "veth", Suitable: true, DefaultRoute: true},
			"br0":  {Kind: "bridge", MTU: 1500, Driver: "bridge", Suitable: true},
			"mv0":  {Kind: "macvlan", MTU: 1400, Driver: "macvlan", Suitable: true},
		}
		for name, mode := range map[string]netlink.TuntapMode{"tap0": netlink.TUNTAP_MODE_TAP, "tun0": netlink.TUNTAP_MODE_TUN} {
			err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode})
			if errors.Is(err, fs.ErrPermission) { // /dev/net/tun may be root's alone
				continue
			}
			r.must(err)
			want[name] = Card{Kind: name[:3], MTU: 1500, Driver: "tun", Suitable: name == "tap0"}
		}
		if c, ok := want["tun0"]; ok {
			c.Reason = "it carries no Ethernet frames"
			want["tun0"] = c
		}
		r.must(flushAddresses(eth0.Attrs().Index, all))
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd00::2/64"), Flags: unix.IFA_F_NODAD})
		r.must(netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: prefix("::/0"), Table: 9}))
		cards, err := List(dir)
		r.must(err)
		for _, c := range cards {
			w, ok := want[c.Name]
			if !ok {
				continue // links that some kernels put into every namespace
			}
			delete(want, c.Name)
			if c.Name == "eth0" && !slices.Equal(c.Addresses, []string{"10.0.0.2/24", "fd00::2/64"}) {
				t.Errorf("addresses of eth0 are %q", c.Addresses)
			}
			if c.Kind != w.Kind || c.MTU != w.MTU || c.Up != w.Up || c.Driver != w.Driver || c.Reason != w.Reason ||
				c.Suitable != w.Suitable || c.DefaultRoute != w.DefaultRoute || c.Holder != nil {
				t.Errorf("got  %+v\nwant %+v", c, w)
			}
		}
		if len(want) > 0 {
			t.Errorf("not listed: %v", want)
		}
	})
}

func TestRoutesOfOtherCardsSurvive(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	veth(r, "eth1", newRoom(t), "peer1")
	r.do(func() {
		r.address("eth1", &netlink.Addr{IPNet: prefix("10.8.0.2/24")})
		r.address("eth1", &netlink.Addr{IPNet: prefix("fd08::2/64"), Flags: unix.IFA_F_NODAD})
		r.settle("eth1")
		zero, one := r.link("eth0").Attrs().Index, r.link("eth1").Attrs().Index
		for _, route := range []netlink.Route{
			// The kernel forgets a route whose source address goes.
			{LinkIndex: one, Dst: prefix("10.20.0.0/16"), Src: []byte{10, 0, 0, 2}},
			{LinkIndex: one, Dst: prefix("10.21.0.0/16"), Gw: []byte{10, 8, 0, 1}},
			{Dst: prefix("10.22.0.0/16"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: zero, Gw: []byte{10, 0, 0, 1}}, {LinkIndex: one, Gw: []byte{10, 8, 0, 1}}}},
			{Dst: prefix("fd22::/64"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: zero, Gw: prefix("fd00::1/64").IP}, {LinkIndex: one, Gw: prefix("fd08::1/64").IP}}},
		} {
			r.must(netlink.RouteAdd(&route))
		}
		before, other := r.picture("eth0"), r.picture("eth1")
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		r.must(err)
		r.must(nic.Release())
		r.restored("eth0", before)
		r.restored("eth1", other)
	})
}
