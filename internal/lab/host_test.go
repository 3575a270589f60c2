package lab_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// where names the namespace of the calling thread.
func where(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDoMovesTheThreadAndBringsItBack(t *testing.T) {
	a, b := labtest.Host(t, "a"), labtest.Host(t, "b")
	home := where(t)
	var inA, inB, backInA string
	err := a.Do(func() error {
		inA = where(t)
		err := b.Do(func() error { inB = where(t); return nil })
		backInA = where(t)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if inA == home || inB == home || inA == inB || backInA != inA || where(t) != home {
		t.Errorf("got %s, %s, %s, %s from %s, want a, b, a and home again", inA, inB, backInA, where(t), home)
	}
}

func TestDoReturnsTheErrorAndSurvivesAPanic(t *testing.T) {
	h := labtest.Host(t, "h")
	home, want := where(t), errors.New("mine")
	if err := h.Do(func() error { return want }); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
	func() {
		defer func() { _ = recover() }() // ours
		_ = h.Do(func() error { panic("mine") })
	}()
	if got := where(t); got != home {
		t.Errorf("got %s after a panic, want %s", got, home)
	}
}

func TestDoOnAClosedHostFails(t *testing.T) {
	h := labtest.Host(t, "h")
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Fatal(err)
	}
	if err := h.Do(func() error { return nil }); err == nil {
		t.Error("got nil, want an error")
	}
}

func TestManyGoroutinesUseManyHosts(t *testing.T) {
	hosts := []*lab.Host{labtest.Host(t, "a"), labtest.Host(t, "b"), labtest.Host(t, "c")}
	names := make([]string, len(hosts))
	for i, h := range hosts {
		if err := h.Do(func() error { names[i] = where(t); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for g := range 30 {
		all.Go(func() {
			for n := range 100 {
				i := (g + n) % len(hosts)
				var got string
				err := hosts[i].Do(func() (err error) { got, err = os.Readlink("/proc/thread-self/ns/net"); return err })
				if err != nil || got != names[i] {
					t.Errorf("got %s, %v, want %s", got, err, names[i])
					return
				}
			}
		})
	}
	all.Wait()
}

func TestStartedProgramRunsInTheHost(t *testing.T) {
	h := labtest.Host(t, "h")
	var want string
	if err := h.Do(func() error { want = where(t); return nil }); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	cmd.Stdout = &out
	if err := <-labtest.Start(t, h, cmd); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestInterfacesObey(t *testing.T) {
	a, _ := pair(t)
	mac := lab.MAC{2, 1, 2, 3, 4, 5}
	if err := errors.Join(a.SetMTU("eth0", 1280), a.SetMAC("eth0", mac)); err != nil {
		t.Fatal(err)
	}
	l, err := a.Link("eth0")
	if err != nil || l.MTU != 1280 || l.MAC.String() != mac.String() || !l.Up || !l.Carrier {
		t.Errorf("got %+v, %v, want MTU 1280, %s, up", l, err, mac)
	}
	if err := a.SetUp("eth0", false); err != nil {
		t.Fatal(err)
	}
	if l, err := a.Link("eth0"); err != nil || l.Up {
		t.Errorf("got %+v, %v, want it down", l, err)
	}
	if _, err := a.Link("eth7"); err == nil || !strings.Contains(err.Error(), "eth7") {
		t.Errorf("got %v, want an error that names eth7", err)
	}
}

func TestRoutesLeadThroughARouter(t *testing.T) {
	a, r, b := labtest.Host(t, "a"), labtest.Host(t, "router"), labtest.Host(t, "b")
	labtest.Wire(t, a, "eth0", r, "left")
	labtest.Wire(t, b, "eth0", r, "right")
	labtest.Addr(t, a, "eth0", "10.1.0.2/24", "fd01::2/64")
	labtest.Addr(t, b, "eth0", "10.2.0.2/24", "fd02::2/64")
	labtest.Addr(t, r, "left", "10.1.0.1/24", "fd01::1/64")
	labtest.Addr(t, r, "right", "10.2.0.1/24", "fd02::1/64")
	labtest.Sysctl(t, r, "net.ipv4.ip_forward", "1")
	labtest.Sysctl(t, r, "net.ipv6.conf.all.forwarding", "1")
	labtest.Route(t, a, "0.0.0.0/0", "10.1.0.1")
	labtest.Route(t, b, "10.1.0.0/24", "10.2.0.1")
	labtest.Route(t, a, "::/0", "fd01::1")
	labtest.Route(t, b, "fd01::/64", "fd02::1")
	sayHello(t, a, b, "10.2.0.2")
	sayHello(t, a, b, "fd02::2")
}

func TestDialFailsWhenRefusedOrWhenTheContextEnds(t *testing.T) {
	a, b, link := impairedPair(t, lab.Impairment{})
	_ = b
	_, err := a.Dial(limit(t), "tcp", families[0].b+":9")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want %v", err, syscall.ECONNREFUSED)
	}
	link.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Dial(ctx, "tcp", families[0].b+":9"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestSocketsAreListedByState(t *testing.T) {
	a, b := pair(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			from := netip.AddrPortFrom(netip.MustParseAddr(f.a), 4444)
			to := netip.AddrPortFrom(netip.MustParseAddr(f.b), 5555)
			s := labtest.Echo(t, b, to.String())
			c, err := a.DialFrom(limit(t), from, to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			info, err := lab.TCPInfo(c)
			if err != nil || lab.State(info.State) != lab.Established {
				t.Errorf("got state %v, %v, want %v", lab.State(info.State), err, lab.Established)
			}
			wantSocket(t, a, lab.Socket{Local: from, Remote: to, State: lab.Established})
			wantSocket(t, b, lab.Socket{Local: to, Remote: netip.AddrPortFrom(zeroOf(to), 0), State: lab.Listening})
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			wantSocket(t, a, lab.Socket{Local: from, Remote: to, State: lab.TimeWait})
			expect(t, "the server's end gone", func() bool { return s.Open() == 0 })
		})
	}
	n, err := a.CountTCP()
	if err != nil || n[lab.TimeWait] != 2 || len(n) != 1 {
		t.Errorf("got %v, %v, want two in %v", n, err, lab.TimeWait)
	}
}

func zeroOf(a netip.AddrPort) netip.Addr {
	if a.Addr().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func wantSocket(t *testing.T, h *lab.Host, want lab.Socket) {
	t.Helper()
	expect(t, want.State.String()+" of "+want.Local.String(), func() bool {
		all, err := h.TCPSockets()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s == want {
				return true
			}
		}
		return false
	})
}

func TestTenThousandConnectionsEcho(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	a, b := pair(t)
	addr := labtest.EchoProcess(t, b, families[0].b+":7")
	start := time.Now()
	m, err := lab.OpenMany(limit(t), a, addr, n)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, m)
	t.Logf("%d opened in %v", n, time.Since(start))
	if failed, err := m.Echo(limit(t)); failed > 0 {
		t.Errorf("got %d failed, one with %v", failed, err)
	}
	count, err := b.CountTCP()
	if got := count[lab.Established]; err != nil || got != n {
		t.Errorf("got %d connections at b, %v, want %d", got, err, n)
	}
}

func TestHTTPOverTheWire(t *testing.T) {
	a, b := pair(t)
	w := labtest.Web(t, b, "["+families[1].b+"]:0")
	resp, err := a.HTTPClient().Get("http://" + w.Addr() + "/bytes?n=100000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || len(got) != 100_000 {
		t.Errorf("got %d bytes, %v, want 100000", len(got), err)
	}
	resp, err = a.HTTPClient().Post("http://"+w.Addr()+"/echo", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v, want hello", got, err)
	}
}
