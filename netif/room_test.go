package netif

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// room is a network namespace of one test.
type room struct {
	t  testing.TB
	ns *os.File
}

func newRoom(t testing.TB) *room {
	t.Helper()
	labtest.Need(t)
	r := &room{t: t}
	r.run(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("new network namespace: %v", err)
			return
		}
		var err error
		if r.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			t.Errorf("keep the network namespace: %v", err)
		}
	})
	t.Cleanup(func() { _ = r.ns.Close() }) // the last reference: the kernel clears up
	r.do(func() {
		r.must(setFlags(1, unix.IFF_UP, unix.IFF_UP))
		r.sysctl("ipv6/conf/default/router_solicitation_delay", "0")
	})
	return r
}

// run runs f on a thread that ends with it.
func (r *room) run(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// do runs f inside the namespace.
func (r *room) do(f func()) {
	r.t.Helper()
	r.run(func() {
		if err := unix.Setns(int(r.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			r.t.Errorf("enter the network namespace: %v", err)
			return
		}
		f()
	})
}

// must ends f of do when something fails.
func (r *room) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Errorf("arrange: %v", err)
		runtime.Goexit()
	}
}

// veth connects two rooms, and waits until the kernel is done with both ends.
func veth(a *room, name string, b *room, peer string) {
	a.t.Helper()
	a.do(func() {
		a.must(netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, NetNsID: -1, TxQLen: -1},
			PeerName:  peer, PeerNamespace: netlink.NsFd(int(b.ns.Fd())),
		}))
		a.up(name)
	})
	b.do(func() {
		b.up(peer)
		b.carrier(peer)
	})
	a.do(func() { a.carrier(name) })
}

// carrier waits for a link to be ready, and for the address it then gets.
func (r *room) carrier(name string) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(dadPoll) {
		a := r.link(name).Attrs()
		list, err := addressesOf(a.Index)
		r.must(err)
		if a.RawFlags&unix.IFF_RUNNING != 0 && len(list) > 0 {
			r.settle(name)
			return
		}
	}
	r.must(fmt.Errorf("%s has no carrier", name))
}

// up brings a link up, with duplicate address detection in milliseconds.
func (r *room) up(name string) {
	r.t.Helper()
	r.sysctl("ipv6/neigh/"+name+"/retrans_time_ms", "10")
	r.must(netlink.LinkSetUp(r.link(name)))
}

func (r *room) link(name string) netlink.Link {
	r.t.Helper()
	l, err := netlink.LinkByName(name)
	r.must(err)
	return l
}

func (r *room) address(name string, a *netlink.Addr) {
	r.t.Helper()
	r.must(netlink.AddrAdd(r.link(name), a))
}

func prefix(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (r *room) sysctl(path, value string) {
	r.t.Helper()
	r.must(os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o644))
}

// settle waits until duplicate address detection is through, as far as it goes
// without carrier, and the kernel has made its route for each address.
func (r *room) settle(name string) {
	r.t.Helper()
	a := r.link(name).Attrs()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(dadPoll) {
		list, err := addressesOf(a.Index)
		r.must(err)
		routes, err := routesOf(a.Index, nil)
		r.must(err)
		if !slices.ContainsFunc(list, func(x message) bool {
			if isTentative(x) {
				return a.RawFlags&unix.IFF_RUNNING != 0
			}
			own := addressPrefix(x.Raw).Addr()
			return own.Is6() && !slices.ContainsFunc(routes, func(y message) bool {
				return isLocalTable(y) && strings.HasPrefix(y.Text, own.String()+"/128")
			})
		}) {
			return
		}
	}
	r.must(fmt.Errorf("addresses of %s stay tentative", name))
}

// picture is everything about a card that Release has to put back, a line
// each. Addresses and routes are read by another hand than the one under test.
func (r *room) picture(name string) []string {
	r.t.Helper()
	link := r.link(name)
	a := link.Attrs()
	lines := []string{fmt.Sprintf("link flags %#x mtu %d mac %s promisc %d allmulti %d",
		a.RawFlags, a.MTU, a.HardwareAddr, a.Promisc, a.Allmulti)}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	r.must(err)
	for _, x := range addrs {
		lines = append(lines, fmt.Sprintf("address %s label %q flags %#x scope %d broadcast %v peer %v lifetimes %s %s",
			x.IPNet, x.Label, x.Flags, x.Scope, x.Broadcast, x.Peer, lifetime(x.PreferedLft), lifetime(x.ValidLft)))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		r.must(err)
		var own []string
		for _, x := range routes {
			own = append(own, fmt.Sprintf("route %s table %d type %d proto %d scope %d metric %d src %v flags %d mtu %d hops %v",
				x, x.Table, x.Type, x.Protocol, x.Scope, x.Priority, x.Src, x.Flags, x.MTU, x.MultiPath))
		}
		slices.Sort(own) // the kernel promises no order
		lines = append(lines, own...)
	}
	settings, err := sysctlsOf(name)
	r.must(err)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		lines = append(lines, "setting "+key+" "+settings[key])
	}
	features, err := featuresOf(name)
	r.must(err)
	lines = append(lines, fmt.Sprintf("offloads %#x", features))
	neighbours, err := neighboursOf(a.Index)
	r.must(err)
	for _, n := range neighbours {
		lines = append(lines, fmt.Sprintf("neighbour %s %x", n.Text, n.Raw))
	}
	qdiscs, err := netlink.QdiscList(link)
	r.must(err)
	for _, q := range qdiscs {
		lines = append(lines, fmt.Sprintf("qdisc %s %#x", q.Type(), q.Attrs().Parent))
	}
	for _, parent := range []uint32{tcIngress, tcEgress} {
		filters, err := filtersOf(a.Index, parent)
		r.must(err)
		for _, f := range filters {
			lines = append(lines, fmt.Sprintf("filter %x", f))
		}
	}
	return lines
}

// lifetime rounds, as time goes on between two pictures.
func lifetime(seconds int) string {
	if seconds <= 0 || uint32(seconds) == forever {
		return fmt.Sprint(seconds)
	}
	return fmt.Sprintf("about %d minutes", (seconds+30)/60)
}

// restored compares the card with an earlier picture. The kernel makes its
// routes for IPv6 addresses a moment later.
func (r *room) restored(name string, want []string) {
	r.t.Helper()
	got := r.picture(name)
	for end := time.Now().Add(5 * time.Second); !slices.Equal(got, want) && time.Now().Before(end); time.Sleep(dadPoll) {
		got = r.picture(name)
	}
	r.same(got, want)
}

// same compares two pictures.
func (r *room) same(got, want []string) {
	r.t.Helper()
	if slices.Equal(got, want) {
		return
	}
	var diff strings.Builder
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintf(&diff, "\n- %s", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintf(&diff, "\n+ %s", l)
		}
	}
	if diff.Len() == 0 {
		fmt.Fprintf(&diff, " order\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r.t.Errorf("the card is not what it was:%s", diff.String())
}
