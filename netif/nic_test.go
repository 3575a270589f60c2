package netif

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// furnish gives eth0 of a room everything a card can have in the kernel.
func (r *room) furnish() {
	r.t.Helper()
	r.do(func() {
		eth0 := r.link("eth0")
		index := eth0.Attrs().Index
		r.must(netlink.LinkSetMTU(eth0, 1450))
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24"), Label: "eth0:web", Broadcast: net.IPv4(10, 0, 0, 255)})
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.3/24")}) // a secondary
		r.address("eth0", &netlink.Addr{IPNet: prefix("192.0.2.1/32"), Peer: prefix("192.0.2.9/32")})
		r.address("eth0", &netlink.Addr{IPNet: prefix("172.16.0.1/16"), Flags: unix.IFA_F_NOPREFIXROUTE, Scope: unix.RT_SCOPE_LINK})
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.1.0.2/24"), ValidLft: 7200, PreferedLft: 3600})
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd00::2/64")})
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd00::3/64"), Flags: unix.IFA_F_NODAD})
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd01::2/64"), Flags: unix.IFA_F_NOPREFIXROUTE, ValidLft: 7200, PreferedLft: 3600})
		r.sysctl("ipv4/conf/eth0/forwarding", "1")
		r.sysctl("ipv4/conf/eth0/arp_ignore", "1")
		r.sysctl("ipv6/conf/eth0/accept_ra", "2")
		r.sysctl("ipv6/conf/eth0/autoconf", "0")
		r.sysctl("ipv6/conf/eth0/mtu", "1400")
		r.settle("eth0")
		// Duplicate detection would take longer now than a release may.
		r.sysctl("ipv6/conf/eth0/dad_transmits", "9")
		r.sysctl("ipv6/neigh/eth0/retrans_time_ms", "1000")
		r.must(netlink.LinkSetAllmulticastOn(eth0))
		for _, route := range []netlink.Route{
			{Dst: prefix("0.0.0.0/0"), Gw: net.IPv4(10, 0, 0, 1), Priority: 100},
			{Dst: prefix("10.5.0.0/16"), Gw: net.IPv4(10, 0, 0, 1), Src: net.IPv4(10, 0, 0, 3), Table: 77, Protocol: unix.RTPROT_STATIC, MTU: 1300},
			{Dst: prefix("10.6.0.0/16"), Gw: net.IPv4(10, 9, 9, 9), Flags: int(netlink.FLAG_ONLINK)},
			{Dst: prefix("10.9.0.0/24"), Scope: netlink.SCOPE_LINK},
			{Dst: prefix("10.10.0.0/24"), Gw: net.IPv4(10, 9, 0, 1)}, // behind the one before
			{Dst: prefix("::/0"), Gw: net.ParseIP("fd00::1"), Priority: 512},
			{Dst: prefix("fd05::/64"), Gw: net.ParseIP("fd00::1"), Src: net.ParseIP("fd00::3"), Table: 77},
			{Dst: prefix("10.7.0.0/16"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: index, Gw: net.IPv4(10, 0, 0, 1)}, {LinkIndex: index, Gw: net.IPv4(10, 0, 0, 7), Hops: 3}}},
			{Dst: prefix("fd07::/64"), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: index, Gw: net.ParseIP("fd00::1")}, {LinkIndex: index, Gw: net.ParseIP("fd00::7")}}},
		} {
			if route.MultiPath == nil {
				route.LinkIndex = index
			}
			r.must(netlink.RouteAdd(&route))
		}
		for _, ip := range []string{"10.0.0.1", "fd00::1"} {
			r.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: net.ParseIP(ip), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}))
		}
	})
}

// pair is a furnished card whose other end is in a second room.
func pair(t testing.TB) (own, other *room) {
	t.Helper()
	own, other = newRoom(t), newRoom(t)
	veth(own, "eth0", other, "peer0")
	own.furnish()
	return own, other
}

func TestReleaseRestoresEverything(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: dir, MTU: 9000})
		r.must(err)
		r.checkClaimed(nic, 9000)
		r.must(nic.Release())
		r.restored("eth0", before)
		if err := nic.Release(); err != nil {
			t.Errorf("second release: %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left in the state directory: %v", left)
		}
	})
}

// checkClaimed looks at the card from the kernel's side.
func (r *room) checkClaimed(nic *NIC, mtu int) {
	r.t.Helper()
	link := r.link(nic.Name())
	a := link.Attrs()
	if got, want := a.RawFlags&(unix.IFF_UP|unix.IFF_NOARP), uint32(unix.IFF_UP|unix.IFF_NOARP); got != want {
		r.t.Errorf("flags of the claimed card are %#x, want %#x", got, want)
	}
	if a.MTU != mtu || nic.MTU() != mtu {
		r.t.Errorf("MTU is %d and said to be %d, want %d", a.MTU, nic.MTU(), mtu)
	}
	if nic.Index() != a.Index || nic.MAC().String() != a.HardwareAddr.String() {
		r.t.Errorf("NIC is %d %s, want %d %s", nic.Index(), nic.MAC(), a.Index, a.HardwareAddr)
	}
	if nic.Guard() != guardBPF {
		r.t.Errorf("guard is %q, want %q", nic.Guard(), guardBPF)
	}
	addrs, err := addressesOf(a.Index)
	r.must(err)
	routes, err := routesOf(a.Index, nil)
	r.must(err)
	if len(addrs) != 0 || len(routes) != 0 {
		r.t.Errorf("claimed card has addresses %q and routes %q, want none", texts(addrs), texts(routes))
	}
	for key, want := range map[string]string{sysctlForward4: "0", sysctlDisableIPv6: "1"} {
		if got, err := readSysctl(nic.Name(), key); err != nil || got != want {
			r.t.Errorf("setting %s is %q (%v), want %q", key, got, err, want)
		}
	}
}

func TestCardThatWasDownIsDownAgain(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	r.do(func() {
		r.must(netlink.LinkSetDown(r.link("eth0")))
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd00::2/64")}) // stays tentative
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		r.must(err)
		r.checkClaimed(nic, 1500)
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

func TestSmallMTUAndIPv6Off(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	r.do(func() {
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
		r.sysctl("ipv6/conf/eth0/disable_ipv6", "1")
		before := r.picture("eth0")
		// Below 1280 the kernel forgets a card's IPv6 settings.
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir(), MTU: 1000})
		r.must(err)
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

func TestAddressMissingByIntentStaysMissing(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	r.do(func() {
		r.address("eth0", &netlink.Addr{IPNet: prefix("fd00::2/64")})
		r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
		r.settle("eth0")
		index := r.link("eth0").Attrs().Index
		r.must(flushAddresses(index, func(a message) bool { return strings.HasPrefix(a.Text, "fe80") }))
		r.must(flushRoutes(index, func(m message) bool { return strings.HasPrefix(m.Text, "10.0.0.0/24") }))
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		r.must(err)
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

func TestTapAndMacvlanAndBridge(t *testing.T) {
	t.Parallel()
	for kind, link := range map[string]netlink.Link{
		"tap":     &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "card0"}, Mode: netlink.TUNTAP_MODE_TAP},
		"macvlan": &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "card0"}, Mode: netlink.MACVLAN_MODE_BRIDGE},
		"bridge":  &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "card0"}},
		"vlan":    &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "card0"}, VlanId: 10},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			veth(r, "under0", newRoom(t), "peer0")
			r.do(func() {
				if kind == "macvlan" || kind == "vlan" {
					link.Attrs().ParentIndex = r.link("under0").Attrs().Index
				}
				err := netlink.LinkAdd(link)
				if kind == "vlan" {
					needVLAN(t, err)
				}
				if kind == "tap" && errors.Is(err, fs.ErrPermission) {
					t.Skipf("tap links may not be made here: %v", err)
				}
				r.must(err)
				r.up("card0")
				r.address("card0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
				r.address("card0", &netlink.Addr{IPNet: prefix("fd00::2/64"), Flags: unix.IFA_F_NODAD})
				r.settle("card0")
				if kind == "tap" { // nobody has its file open: Linux up to 6.1 notes that within a second
					until(t, "the tap has no carrier", func() bool { return r.link("card0").Attrs().OperState == netlink.OperDown })
				}
				before := r.picture("card0")
				nic, err := Claim("card0", ClaimOptions{StateDir: t.TempDir()})
				r.must(err)
				r.checkClaimed(nic, 1500)
				r.must(nic.Release())
				r.restored("card0", before)
			})
		})
	}
}

func TestForeignFiltersAreKept(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	r.do(func() {
		index := r.link("eth0").Attrs().Index
		r.must(send(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, clsact(index)))
		r.must(addBPF(index, 5, []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}))
		filters, err := filtersOf(index, tcIngress)
		r.must(err)
		if len(filters) != 1 || isGuard(filters[0]) {
			t.Errorf("got %d filters, the first ours: %v, want one of somebody else", len(filters), isGuard(filters[0]))
		}
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		r.must(err)
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

func TestClaimRefusesWithOneSentence(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	dir := t.TempDir()
	r.do(func() {
		veth := func(name string) string {
			r.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, NetNsID: -1, TxQLen: -1}, PeerName: name + "p"}))
			return name
		}
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		r.must(netlink.LinkAdd(br))
		r.must(netlink.LinkSetMaster(r.link(veth("port0")), br))
		tun := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN})
		if !errors.Is(tun, fs.ErrPermission) { // /dev/net/tun may be root's alone
			r.must(tun)
		}
		_, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		for _, tt := range []struct{ name, dir, want string }{
			{"eth9", dir, "claim eth9: there is no such network card; there are: br0, eth0, port0p"},
			{"lo", dir, "claim lo: the loopback link is the kernel's own and leads to no network"},
			{"port0", dir, "claim port0: it is a member of the bridge br0: claim that, or take it out first"},
			{"tun0", dir, "claim tun0: it carries no Ethernet frames"},
			{"eth0", dir, "claim eth0: this process holds the card already"},
			{"br0", "/proc/nothing", "claim br0: state directory: mkdir /proc/nothing: no such file or directory"},
		} {
			if tt.name == "tun0" && tun != nil {
				continue
			}
			if _, err := Claim(tt.name, ClaimOptions{StateDir: tt.dir}); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			there := tt.name == "eth0" || tt.name == "br0" // and only claimed, or without a directory
			if err := Look(tt.name); there && err != nil || !there && (err == nil || err.Error() != tt.want) {
				t.Errorf("a look at %s: got %v", tt.name, err)
			}
		}
		for name, want := range map[string]string{
			"eth9":  "release eth9: it is not claimed: there is no file " + dir + "/eth9.json",
			"eth0":  "release eth0: this process holds the card already",
			"../x":  "release ../x: this is not the name of a network card",
			"port0": "release port0: it is not claimed: there is no file " + dir + "/port0.json",
		} {
			if err := Release(name, dir); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
	})
}

func TestACardThatAnotherApplianceDrivesIsNotTaken(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	dir, other := t.TempDir(), t.TempDir()
	why := "another appliance drives the card, and its state directory is not " + other + ": stop it first, or name its directory with --state-dir"
	r.do(func() {
		_, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		e, err := Open("eth0", EndpointOptions{})
		r.must(err)
		if _, err := Claim("eth0", ClaimOptions{StateDir: other}); err == nil || err.Error() != "claim eth0: "+why {
			t.Errorf("got  %v\nwant claim eth0: %s", err, why)
		}
		cards, err := List(other)
		r.must(err)
		for _, c := range cards {
			if c.Name == "eth0" && (c.Suitable || c.Reason != why || c.Holder == nil || !c.Holder.Alive) {
				t.Errorf("it is listed as %+v", c)
			}
		}
		// Of one that has crashed only the guard is left.
		r.must(e.Close())
		var log bytes.Buffer
		_, err = Claim("eth0", ClaimOptions{StateDir: other, Log: slog.New(slog.NewTextHandler(&log, nil))})
		r.must(err)
		if !strings.Contains(log.String(), "has left its guard on the card") {
			t.Errorf("the log says nothing of the guard: %s", log.String())
		}
	})
}

func TestMissingCapabilityIsNamed(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.do(func() { // on a thread of its own, which ends
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		r.must(unix.Capget(&hdr, &data[0]))
		data[0].Effective &^= 1 << unix.CAP_NET_RAW
		r.must(unix.Capset(&hdr, &data[0]))
		_, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "this process lacks CAP_NET_RAW: ") || !strings.Contains(err.Error(), "setcap") {
			t.Errorf("got %v, want a sentence that names CAP_NET_RAW and setcap", err)
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		r.must(unix.Capset(&hdr, &data[0]))
		if err := checkCapabilities(); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN and CAP_NET_RAW") {
			t.Errorf("got %v, want both capabilities named", err)
		}
	})
}

func TestClaimWarnsOfWhatTheMachineLoses(t *testing.T) {
	t.Parallel()
	r, other := pair(t)
	other.do(func() {
		other.address("peer0", &netlink.Addr{IPNet: prefix("10.0.0.1/24")})
		// furnish gave a wrong neighbour address: give it to the peer.
		other.must(netlink.LinkSetHardwareAddr(other.link("peer0"), net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	})
	var l net.Listener
	r.do(func() {
		var err error
		l, err = net.Listen("tcp4", "10.0.0.2:22")
		r.must(err)
	})
	defer func() { _ = l.Close() }()
	other.do(func() {
		c, err := net.Dial("tcp4", "10.0.0.2:22")
		other.must(err)
		t.Cleanup(func() { _ = c.Close() })
	})
	r.do(func() {
		r.must(netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: r.link("eth0").Attrs().Index}}))
		cards, err := List(t.TempDir())
		r.must(err)
		i := slices.IndexFunc(cards, func(c Card) bool { return c.Name == "eth0" })
		if c := cards[i]; !c.DefaultRoute || len(c.SSH) != 1 || !strings.HasPrefix(c.SSH[0], "10.0.0.1:") || !c.Suitable {
			t.Errorf("eth0 is listed as %+v, want a default route, an SSH session from 10.0.0.1, suitable", c)
		}
		var log bytes.Buffer
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		r.must(err)
		for _, want := range []string{"default route", "SSH session", "link=mv0"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("log does not mention %q:\n%s", want, log.String())
			}
		}
		r.must(nic.Release())
	})
}

func TestReleaseOfACardThatIsGone(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	dir := t.TempDir()
	r.do(func() {
		nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		r.must(netlink.LinkDel(r.link("eth0")))
		if err := nic.Release(); err != nil {
			t.Errorf("release: %v", err)
		}
		if _, err := os.Stat(statePath(dir, "eth0")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("state file: %v, want none", err)
		}
	})
}

func TestReleaseFindsARenamedCard(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		err = netlink.LinkSetName(r.link("eth0"), "wan0")
		if errors.Is(err, unix.EBUSY) {
			t.Skip("this kernel renames no card that is up")
		}
		r.must(err)
		r.must(nic.Release())
		index := r.link("wan0").Attrs().Index
		addrs, err := addressesOf(index)
		r.must(err)
		if got, want := texts(addrs), texts(nic.state.Original.Addresses); !slices.Equal(got, want) {
			t.Errorf("addresses after the release are %q, want %q", got, want)
		}
		r.same(slices.DeleteFunc(r.picture("wan0"), hasLabel), slices.DeleteFunc(before, hasLabel))
	})
}

// hasLabel picks the lines that name the card.
func hasLabel(line string) bool {
	return strings.Contains(line, "label \"eth0") || strings.Contains(line, "label \"wan0")
}

func TestReleaseGoesOnPastErrorsAndCanBeRepeated(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		good := nic.state.Original
		bad := good
		bad.Addresses = append([]message{{Text: "256.0.0.1/24", Raw: make([]byte, ifaHead)}}, good.Addresses...)
		bad.Addresses[0].Raw[0] = unix.AF_INET
		bad.MTU = 1 << 30
		nic.state.Original = bad
		err = nic.Release()
		for _, want := range []string{"put back address 256.0.0.1/24: ", "set the MTU to 1073741824: "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to say %q", err, want)
			}
		}
		if _, err := loadState(dir, "eth0"); err != nil {
			t.Errorf("state file after a failed release: %v", err)
		}
		nic.state.Original = good
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}
