package services_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/diag"
	"github.com/lastack/lastack/services/servicestest"
)

func echo(t *testing.T, env services.Env, name, addr string) *diag.Diag {
	t.Helper()
	c := config.Service{Name: name, Type: "echo", Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}}}}
	d, err := diag.New(c, config.DefaultPolicy(), env)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAServiceThatCannotStartUndoesThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &servicestest.Net{}
		loops := services.NewLoops(services.LoopOptions{N: 1})
		defer loops.Close()
		env := services.Env{Network: net, Loops: loops}
		first, second := echo(t, env, "first", "198.51.100.1:7"), echo(t, env, "second", "198.51.100.1:7")
		err := services.NewSupervisor(first, second).Start(t.Context())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "second") || !strings.Contains(err.Error(), "198.51.100.1:7") {
			t.Errorf("error is %v, want address in use, the service and the address named", err)
		}
		if first.Phase() != services.Closed || second.Phase() != services.Closed {
			t.Errorf("phases are %s and %s, want both closed", first.Phase(), second.Phase())
		}
		if l, err := net.Listen(netip.MustParseAddrPort("198.51.100.1:7"), ""); err != nil {
			t.Errorf("the address is still taken: %v", err)
		} else {
			l.Close()
		}
	})
}

// recorder is a Service that notes what is asked of it.
type recorder struct {
	services.Service
	name  string
	calls *[]string
}

func (r *recorder) Start() error { *r.calls = append(*r.calls, "start "+r.name); return nil }
func (r *recorder) Close()       { *r.calls = append(*r.calls, "close "+r.name) }

func TestServicesStartInOrderAndCloseInReverse(t *testing.T) {
	var calls []string
	v := services.NewSupervisor(&recorder{name: "a", calls: &calls}, &recorder{name: "b", calls: &calls})
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.Close()
	v.Close()
	if want := []string{"start a", "start b", "close b", "close a"}; !slices.Equal(calls, want) {
		t.Errorf("calls are %v, want %v", calls, want)
	}
}

func TestServicesDrainTogetherAfterTheAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &servicestest.Net{Delay: time.Millisecond}
		loops := services.NewLoops(services.LoopOptions{N: 2})
		defer loops.Close()
		env := services.Env{Network: net, Loops: loops}
		first, second := echo(t, env, "first", "198.51.100.1:7"), echo(t, env, "second", "198.51.100.2:7")
		v := services.NewSupervisor(first, second)
		if err := v.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		for _, s := range v.Services() {
			if _, err := net.Client(s.Addrs()[0]); err != nil { // never answers our FIN
				t.Fatal(err)
			}
		}
		drain := config.DefaultDrain()
		drain.Announce = 2 * time.Second
		report := v.Drain(t.Context(), drain)
		if report.Reset != 2 || len(report.Services) != 2 || report.Services[1].Service != "second" || report.Services[1].Reset != 1 || len(report.Rest) != 2 {
			t.Errorf("report is %+v, want one reset for each", report)
		}
		if want := drain.Announce + drain.FinGrace; report.Took < want || report.Took > want+100*time.Millisecond {
			t.Errorf("it took %v, want %v: both at once", report.Took, want)
		}
	})
}

func TestACanceledStartStartsNothing(t *testing.T) {
	var calls []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := services.NewSupervisor(&recorder{name: "a", calls: &calls}).Start(ctx); !errors.Is(err, context.Canceled) || len(calls) != 0 {
		t.Errorf("error %v, calls %v; want canceled and none", err, calls)
	}
}

func TestTheLastEndedConnectionsAreKeptNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &servicestest.Net{}
		loops := services.NewLoops(services.LoopOptions{N: 1})
		defer loops.Close()
		d := echo(t, services.Env{Network: net, Loops: loops}, "echo", "198.51.100.1:7")
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var last *servicestest.Peer
		for range 1500 {
			c, err := net.Client(d.Addrs()[0])
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.Close()
			last = c
		}
		time.Sleep(time.Second)
		all := d.Ended()
		if len(all) != 1024 || all[0].ClientAddr != last.LocalAddr() {
			t.Fatalf("%d kept, newest %v; want 1024 and %v", len(all), all[0].ClientAddr, last.LocalAddr())
		}
		if !slices.IsSortedFunc(all, func(a, b services.Ended) int { return int(b.ID) - int(a.ID) }) {
			t.Error("they are not in order, newest first")
		}
		if c := d.Counters(); c.Accepted != 1500 || c.Ended["finished"] != 1500 {
			t.Errorf("counters are %+v, want 1500 accepted and finished", c)
		}
	})
}

func TestReasonsHaveTheirNamesInText(t *testing.T) {
	for r := services.Live; r <= services.InternalError; r++ {
		text, err := r.MarshalText()
		var back services.Reason
		if err != nil || len(text) == 0 || back.UnmarshalText(text) != nil || back != r {
			t.Errorf("reason %d is %q and reads back as %d", r, text, back)
		}
	}
	var r services.Reason
	if err := r.UnmarshalText([]byte("nonsense")); err == nil {
		t.Error("nonsense was read as a reason")
	}
}
