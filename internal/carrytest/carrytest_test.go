package carrytest_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/carrytest"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

func TestTheSameSeedMakesTheSameSchedules(t *testing.T) {
	lanes := []int{1 << 20, 1 << 14}
	kinds := make(map[string]int)
	for i := range 500 {
		a, b := carrytest.New(7, i, lanes).String(), carrytest.New(7, i, lanes).String()
		if a != b {
			t.Fatalf("got\n%s\nand\n%s", a, b)
		}
		_, rest, _ := strings.Cut(a, "(")
		kind, _, _ := strings.Cut(rest, ")")
		kinds[kind]++
	}
	if len(kinds) != 8 {
		t.Errorf("got %d kinds of 500 schedules, want all 8: %v", len(kinds), kinds)
	}
	if carrytest.New(7, 0, lanes).String() == carrytest.New(8, 0, lanes).String() {
		t.Error("got the same schedule for another seed")
	}
}

// Two kernels without anything between them do what the schedules say, whatever
// the wire does: so what is found behind a proxy is the proxy's.
func TestKernelsAloneDoWhatIsScheduled(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 100
	}
	a, b := labtest.Host(t, "client"), labtest.Host(t, "backend")
	labtest.WireImpaired(t, a, "a0", b, "b0", lab.Impairment{Loss: 0.03, Delay: 2 * time.Millisecond, Reorder: 0.03, Duplicate: 0.02, Corrupt: 0.02, Seed: 1})
	labtest.Addr(t, a, "a0", "10.0.0.1/24", "fd00::1/64")
	labtest.Addr(t, b, "b0", "10.0.0.2/24", "fd00::2/64")
	labtest.Sysctl(t, a, "net.ipv4.tcp_fastopen", "5")
	lane := carrytest.Lane{Name: "wire", Client: a, Backend: b, Most: 64 << 10}
	for i := range 80 {
		v4, v6 := addr("10.0.0.2", 1000+i), addr("fd00::2", 1000+i)
		lane.Slots = append(lane.Slots, carrytest.Slot{V4: v4, V6: v6, Backend: v4}, carrytest.Slot{V4: v4, V6: v6, Backend: v6})
	}
	st := &carrytest.Stage{Lanes: []carrytest.Lane{lane}}
	var schedules []*carrytest.Schedule
	for i := range n {
		s := carrytest.New(1, i, []int{lane.Most})
		s.FromV6 = s.ToV6 // nobody translates here
		schedules = append(schedules, s)
	}
	resets := 0
	err := st.Play(t.Context(), schedules, func(r *carrytest.Result) {
		if r.Fault != nil {
			t.Errorf("%v\n%v", r.Schedule, r.Fault)
		}
		if strings.Contains(r.Mark(), "reset") {
			resets++
		}
	})
	if err != nil {
		t.Error(err)
	}
	if resets < n/20 {
		t.Errorf("got %d resets of %d connections, want more", resets, n)
	}
}

func addr(ip string, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port))
}

// Whatever a proxy does wrong is seen, and what a good one does is not.
func TestFaultsOfAProxyAreSeen(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  badProxy
		want string // empty if nothing is wrong
	}{
		{"none", badProxy{}, ""},
		{"one bit", badProxy{change: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }}, "wrong bytes from offset"},
		{"repeats", badProxy{change: func(b []byte) []byte { return append(b, b[len(b)-16:]...) }}, "(they belong to offset"},
		{"loses", badProxy{change: func(b []byte) []byte { return b[16:] }}, "+16)"},
		{"cuts the end", badProxy{change: func(b []byte) []byte { return b[:len(b)-1] }}, "saw FIN after"},
		{"RST instead of FIN", badProxy{end: (*net.TCPConn).Close, abortive: true}, "was reset after"},
		{"FIN instead of RST", badProxy{forgives: true}, "where the other had reset the connection"},
		{"no half-close", badProxy{end: (*net.TCPConn).Close}, "was reset after"},
		{"silence", badProxy{change: func([]byte) []byte { return nil }, mute: true}, "not over after"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := playThrough(t, c.bad)
			if c.want == "" && text != "" || !strings.Contains(text, c.want) {
				t.Errorf("got %q, want %q", text, c.want)
			}
		})
	}
}

// playThrough plays two connections through a proxy and returns the faults: in
// one both sides finish, in the other the client resets.
func playThrough(t *testing.T, bad badProxy) string {
	h := labtest.Host(t, "all")
	at, to := addr("127.0.0.1", 1000), addr("127.0.0.1", 2000)
	l, err := h.Listen(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	bad.host, bad.to = h, to.String()
	var serving sync.WaitGroup
	serving.Go(func() { bad.serve(t.Context(), l) })
	defer serving.Wait()
	defer l.Close()
	lane := carrytest.Lane{Name: "lo", Client: h, Backend: h, Slots: []carrytest.Slot{{V4: at, V6: at, Backend: to}}}
	step := func(n int, await int64) carrytest.Step { return carrytest.Step{Write: n, Await: await} }
	script := func(how carrytest.How, await int64, steps ...carrytest.Step) carrytest.Script {
		return carrytest.Script{Piece: 4096, Out: steps, End: carrytest.Ending{How: how, Await: await}}
	}
	schedules := []*carrytest.Schedule{
		// The backend goes on after the client's FIN.
		{Seed: 1, Index: 0, Client: script(carrytest.Fin, 0, step(1000, 0)), Backend: script(carrytest.Fin, 0, step(1000, 1001))},
		{Seed: 1, Index: 1, Client: script(carrytest.Reset, 100, step(1000, 0)), Backend: script(carrytest.Fin, 1001, step(100, 1000))},
	}
	var faults []error
	st := &carrytest.Stage{Lanes: []carrytest.Lane{lane}, Patience: 3 * time.Second}
	if err := st.Play(t.Context(), schedules, func(r *carrytest.Result) { faults = append(faults, r.Fault) }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(faults...); err != nil {
		return err.Error()
	}
	return ""
}

// badProxy is a proxy with a fault.
type badProxy struct {
	host     *lab.Host
	to       string
	change   func([]byte) []byte      // what becomes of bytes on their way to the backend
	end      func(*net.TCPConn) error // instead of CloseWrite, for FIN
	abortive bool                     // with RST
	forgives bool                     // FIN for RST
	mute     bool                     // and no FIN
}

func (p badProxy) serve(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b, err := p.host.Dial(ctx, "tcp", p.to)
		if err != nil {
			c.Close()
			return
		}
		p.carry(c.(*net.TCPConn), b.(*net.TCPConn))
	}
}

func (p badProxy) carry(client, backend *net.TCPConn) {
	var both sync.WaitGroup
	defer client.Close()
	defer backend.Close()
	both.Go(func() { p.pass(client, backend, p.change) })
	both.Go(func() { p.pass(backend, client, nil) })
	both.Wait()
}

func (p badProxy) pass(from, to *net.TCPConn, change func([]byte) []byte) {
	b := make([]byte, 1000, 2000)
	for {
		n, err := from.Read(b)
		if out := b[:n]; n > 0 {
			if change != nil && n > 16 {
				out = change(out)
			}
			if _, err := to.Write(out); err != nil {
				p.passOn(from, syscall.ECONNRESET)
				return
			}
		}
		if err != nil {
			p.passOn(to, err)
			return
		}
	}
}

func (p badProxy) passOn(to *net.TCPConn, err error) {
	switch {
	case errors.Is(err, syscall.ECONNRESET) && !p.forgives, p.abortive:
		_ = to.SetLinger(0) // it may be gone
		_ = to.Close()
	case p.mute:
	case p.end != nil:
		_ = p.end(to)
	default:
		_ = to.CloseWrite()
	}
}
