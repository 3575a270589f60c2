package proxy

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

// Of a spliced connection nothing stays here: the pair and its session are garbage
// as soon as it is spliced.
func TestNothingOfASplicedPairStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := servicestest.NewCarrierNet(&servicestest.Net{Delay: time.Millisecond})
		front, back := netip.MustParseAddrPort("198.51.100.1:80"), netip.MustParseAddrPort("10.0.0.21:80")
		conf := config.Service{
			Name: "web", Type: "proxy", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}}, Backends: []netip.AddrPort{back},
			ConnectTimeout: time.Hour, IdleTimeout: time.Hour, Forwarding: "splice",
		}
		loops := services.NewLoops(services.LoopOptions{N: 2})
		defer loops.Close()
		env := services.Env{Network: net, Loops: loops}
		x := New(conf, config.DefaultPolicy(), env)
		var mu sync.Mutex
		var pairs []weak.Pointer[pair]
		x.Server = services.NewServer(conf, config.DefaultPolicy(), env, func() (*services.Session, services.Runner) {
			s, r := x.open()
			mu.Lock()
			defer mu.Unlock()
			pairs = append(pairs, weak.Make(r.(*pair)))
			return s, r
		})
		h, err := net.Host(back)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Start(); err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		const n = 100
		for range n {
			if _, err := net.Client(front); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		runtime.GC()
		runtime.GC()
		alive := 0
		for _, p := range pairs {
			if p.Value() != nil {
				alive++
			}
		}
		if len(pairs) != n || net.Flows() != n || alive > 0 {
			t.Errorf("of %d pairs %d are spliced and %d still in memory, want all and none", len(pairs), net.Flows(), alive)
		}
	})
}

// A backend is chosen on the path of frames: nothing is allocated there.
func TestChoosingABackendAllocatesNothing(t *testing.T) {
	loops := services.NewLoops(services.LoopOptions{N: 1})
	defer loops.Close()
	net := servicestest.NewCarrierNet(&servicestest.Net{})
	var backends []netip.AddrPort
	for i := range 10 {
		backends = append(backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80))
	}
	conf := config.Service{Name: "web", Type: "proxy", Backends: backends, ConnectTimeout: time.Second, Forwarding: "direct"}
	x := New(conf, config.DefaultPolicy(), services.Env{Network: net, Loops: loops})
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	o := owner{x}
	client := netip.MustParseAddrPort("198.51.100.7:40000")
	got := testing.AllocsPerRun(1000, func() {
		first, ok := o.Choose(client, netip.AddrPort{})
		if !ok {
			t.Fatal("no backend")
		}
		o.Tried(first, nil)
	})
	if got != 0 {
		t.Errorf("%v allocations for each, want none", got)
	}
	if n := x.Counters().Active; n != 1001 {
		t.Errorf("%d places are taken, want 1001", n)
	}
}
