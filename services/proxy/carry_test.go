package proxy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

// newCarryRig is a rig whose network carries connections, as forwarding says.
func newCarryRig(t *testing.T, forwarding string) *rig {
	r := newRig(t)
	r.carry = servicestest.NewCarrierNet(r.net)
	r.conf.Forwarding = forwarding
	return r
}

// bothCarriers runs a test for splice and for direct.
func bothCarriers(t *testing.T, test func(r *rig)) {
	for _, by := range []string{"splice", "direct"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(newCarryRig(t, by)) })
		})
	}
}

// wantCarried checks how the proxy's connections are carried, and that all counts agree.
func (r *rig) wantCarried(by tcpinfo.Carrier, n int) {
	r.Helper()
	synctest.Wait()
	rows := r.proxy.Conns()
	if len(rows) != n || by != tcpinfo.Relay && r.carry.Flows() != n {
		r.Errorf("%d connections are listed and %d carried, want %d", len(rows), r.carry.Flows(), n)
	}
	for _, row := range rows {
		if row.Carrier != by {
			r.Errorf("connection %d is carried by %s (%s), want %s", row.ID, row.Carrier, row.Why, by)
		}
	}
	c := r.proxy.Counters()
	if c.Active != int64(n) || c.Settling != 0 || c.Carried[by] != int64(n) {
		r.Errorf("%d are active, %d settle, %v are carried; want %d by %s", c.Active, c.Settling, c.Carried, n, by)
	}
	var active int64
	for _, b := range r.proxy.Backends() {
		active += b.Active
	}
	if active != int64(n) {
		r.Errorf("the backends have %d connections, want %d", active, n)
	}
}

func TestACarriedConnectionIsTheServicesOwn(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c := r.client()
		r.say(c, "early question")
		b, err := h.Accept()
		if err != nil {
			r.Fatal(err)
		}
		r.say(b, "banner")
		r.hear(b, "early question")
		r.hear(c, "banner")
		time.Sleep(time.Second)
		by := tcpinfo.Carrier(r.conf.Forwarding)
		r.wantCarried(by, 1)
		row := r.proxy.Conns()[0]
		if row.Service != "web" || row.Stage != "relaying" || row.State != "ESTABLISHED/ESTABLISHED" || row.Client != c.LocalAddr() ||
			row.Local != front || row.Backend != back1 || row.Source != b.RemoteAddr() || row.ToBackend != 14 || row.ToClient != 6 {
			r.Errorf("the row is %+v", row)
		}
		if want := map[tcpinfo.Carrier]string{tcpinfo.Splice: "forwarding: splice"}[by]; row.Why != want {
			r.Errorf("it is not cheaper because of %q, want %q", row.Why, want)
		}
		if k := r.proxy.Counters(); k.Accepted != 1 || k.ToBackend != 14 || k.ToClient != 6 {
			r.Errorf("the counters are %+v", k)
		}
		c.CloseWrite()
		r.hearEnd(b)
		b.CloseWrite()
		r.hearEnd(c)
		time.Sleep(time.Second)
		e := r.wantEnd(services.Finished, "client", services.ByFIN, services.Clean)
		if e.Carrier != by || e.ToBackend != 14 || e.ToClient != 6 || !e.Client.FinAcked || !e.Backend.FinAcked || e.Policy != "default" || e.Lasted < time.Second {
			r.Errorf("the record is %+v", e)
		}
		if k := r.proxy.Counters(); k.Ended["finished"] != 1 || k.ToBackend != 14 || k.ToClient != 6 {
			r.Errorf("the counters are %+v", k)
		}
		r.wantCarried(by, 0)
	})
}

func TestAResetOfACarriedConnectionPassesThrough(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		time.Sleep(time.Second)
		b.Abort()
		time.Sleep(time.Second)
		r.hearReset(c)
		r.wantEnd(services.BackendReset, "backend", services.ByRST, services.Clean)
	})
}

// What can't be spliced is relayed, whole, and the listing says why.
func TestARefusedSpliceIsRelayed(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.carry.Refusal = errors.New("no timestamps")
		if r.conf.Forwarding == "direct" { // the SYN has to come the ordinary way
			r.conf.MaxConns = 1
		}
		h := r.backend(back1)
		r.start()
		defer r.stop()
		if r.conf.MaxConns == 1 {
			first, end := r.pair(h)
			time.AfterFunc(time.Second, func() { first.Abort(); end.Abort() })
		}
		c := r.client()
		r.say(c, "early question")
		b, err := h.Accept()
		if err != nil {
			r.Fatal(err)
		}
		r.say(b, "banner")
		r.hear(b, "early question")
		r.hear(c, "banner")
		time.Sleep(2 * time.Second)
		r.wantCarried(tcpinfo.Relay, 1)
		if why := r.proxy.Conns()[0].Why; why != "no timestamps" {
			r.Errorf("it is relayed because of %q", why)
		}
		if n := r.carry.Unheld(); n != 2 {
			r.Errorf("%d connections were let go on, want both", n)
		}
		c.CloseWrite()
		r.hearEnd(b)
		b.CloseWrite()
		r.hearEnd(c)
		time.Sleep(time.Second)
		if e := r.wantEnd(services.Finished, "client", services.ByFIN, services.Clean); e.Carrier != tcpinfo.Relay || e.Why != "no timestamps" {
			r.Errorf("the record is %+v", e)
		}
	})
}

func TestWhyAConnectionIsRelayed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *rig)
		why    string
	}{
		"by configuration": {func(r *rig) { r.conf.Forwarding = "relay" }, "forwarding: relay"},
		"by heartbeat": {func(r *rig) {
			r.conf.Heartbeat = config.Heartbeat{Side: "backend", Idle: time.Hour, Timeout: time.Second, Send: "?", Expect: "!"}
		}, "heartbeat"},
		"by the network": {func(r *rig) { r.carry = nil }, "the network carries none"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newCarryRig(t, "direct")
				c.change(r)
				h := r.backend(back1)
				r.start()
				defer r.stop()
				client, b := r.pair(h)
				r.say(client, "question")
				r.hear(b, "question")
				synctest.Wait()
				rows := r.proxy.Conns()
				if len(rows) != 1 || rows[0].Carrier != tcpinfo.Relay || rows[0].Why != c.why {
					t.Errorf("%+v are listed, want one, relayed because of %q", rows, c.why)
				}
			})
		})
	}
}

func TestADirectClientGetsTheNextBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCarryRig(t, "direct")
		r.conf.Backends = []netip.AddrPort{back1, back2, back3}
		r.conf.ConnectTimeout = time.Second
		r.net.Behave(back1, servicestest.Silent)
		one, three := r.backend(back1), r.backend(back3) // nobody listens at the second
		r.start()
		defer r.stop()
		begun := time.Now()
		c, b := r.pair(three)
		if took := time.Since(begun); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("the third backend was connected after %v, want soon after 1s", took)
		}
		r.say(c, "question")
		r.hear(b, "question")
		synctest.Wait()
		if row := r.proxy.Conns()[0]; row.Retries != 2 || row.Backend != back3 {
			t.Errorf("the row is %+v, want two attempts that failed", row)
		}
		for i, want := range []struct {
			up                 bool
			connects, failures uint64
		}{{false, 0, 1}, {false, 0, 1}, {true, 1, 0}} {
			if got := r.proxy.Backends()[i]; got.Up != want.up || got.Connects != want.connects || got.Failures != want.failures {
				t.Errorf("backend %d is %+v, want %+v", i, got, want)
			}
		}
		r.net.Behave(back1, servicestest.Answer)
		time.Sleep(time.Minute) // the rests are over
		for _, h := range []*servicestest.Host{three, three, one} {
			r.pair(h)
		}
		r.wantCarried(tcpinfo.Direct, 4)
	})
}

func TestADirectClientWithoutABackendIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCarryRig(t, "direct")
		r.conf.MaxConns = 1
		r.start()
		defer r.stop()
		for range 3 { // each gives its place back
			if _, err := r.net.Client(front); err == nil {
				t.Error("a client was connected without a backend")
			}
			time.Sleep(time.Second)
			e := r.wantEnd(services.NoBackend, "us", services.ByRST, services.Reset)
			if e.Carrier != tcpinfo.Direct || e.Retries != 4 || e.Backend.Present || e.Detail != "4 attempts, the last: 10.0.0.21:80 refused" {
				t.Errorf("the record is %+v", e)
			}
		}
		r.wantCarried(tcpinfo.Direct, 0)
	})
}

// max_conns holds over all carriers: who comes later waits, and is taken when a
// place is free.
func TestMaxConnsHoldsForWhatIsCarried(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.conf.MaxConns = 2
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		r.pair(h)
		third := r.client()
		r.say(third, "waits")
		time.Sleep(time.Second)
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 2)
		c.Abort()
		b.Abort()
		last, err := h.Accept()
		if err != nil {
			r.Fatal(err)
		}
		r.hear(last, "waits")
		if k := r.proxy.Counters(); k.Active != 2 || k.Full == 0 || k.Accepted != 3 {
			r.Errorf("the counters are %+v", k)
		}
	})
}

func TestTheOperatorEndsACarriedConnection(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 1)
		if err := r.proxy.Kill(r.proxy.Conns()[0].ID, "fin"); err != nil {
			r.Error(err)
		}
		time.Sleep(time.Second)
		r.wantEnd(services.Killed, "us", services.ByFIN, services.Clean)
		c, b := r.pair(h)
		time.Sleep(time.Second)
		id := r.proxy.Conns()[0].ID
		if p, err := r.proxy.Probe(r.Context(), id); err != nil || p.Client.Alive != tcpinfo.Answers || p.Backend == nil || p.Backend.Alive != tcpinfo.Answers {
			r.Errorf("the probe got %+v, %v", p, err)
		}
		if !r.proxy.HasConn(id) || r.proxy.HasConn(id+1000) {
			r.Error("a connection is not found, or another is")
		}
		if err := r.proxy.Kill(id, "rst"); err != nil {
			r.Error(err)
		}
		time.Sleep(time.Second)
		r.hearReset(c)
		r.hearReset(b)
		r.wantEnd(services.Killed, "us", services.ByRST, services.Reset)
		if err := r.proxy.Kill(id, "rst"); !errors.Is(err, services.ErrUnknown) {
			r.Errorf("a second kill: %v", err)
		}
		if _, err := r.proxy.Probe(r.Context(), id); !errors.Is(err, services.ErrUnknown) {
			r.Errorf("a probe of what has ended: %v", err)
		}
	})
}

func TestCloseResetsWhatIsCarried(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		c, b := r.pair(h)
		time.Sleep(time.Second)
		r.stop()
		r.hearReset(c)
		r.hearReset(b)
		r.wantEnd(services.Stopped, "us", services.ByRST, services.Reset)
		if by := r.carry.Carries(front); by != tcpinfo.Relay {
			r.Errorf("the address is still carried by %s", by)
		}
	})
}

// A policy with linger 0s resets where others send FIN.
func TestAnAbortiveCloseResetsWhatIsCarried(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.pol.AbortiveClose = true
		h := r.backend(back1)
		r.start()
		defer r.stop()
		for range 2 {
			r.idle(h, 1)
		}
		if err := r.proxy.Kill(r.proxy.Conns()[0].ID, "fin"); err != nil {
			r.Error(err)
		}
		time.Sleep(time.Second)
		r.wantEnd(services.Killed, "us", services.ByRST, services.Reset)
		wantReport(r.T, r.proxy.Drain(r.Context(), config.DefaultDrain()), 0, 1, 0, 0, 300*time.Millisecond)
		r.wantEnd(services.Drained, "us", services.ByRST, services.Reset)
	})
}

func TestTheRulesOfAPolicyEndWhatIsCarried(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		for leg, want := range map[tcpinfo.LegName]services.Reason{tcpinfo.ClientLeg: services.ClientKeepalive, tcpinfo.BackendLeg: services.BackendKeepalive} {
			r.pair(h)
			time.Sleep(time.Second)
			r.carry.GiveUp(r.proxy.Conns()[0].ID, leg, tcpinfo.Keepalive)
			time.Sleep(time.Second)
			r.wantEnd(want, string(leg), services.ByTimeout, services.Reset)
		}
	})
}

// A reload changes how new connections are carried; those there are stay.
func TestAReloadChangesTheCarrierOfNewConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCarryRig(t, "relay")
		h := r.backend(back1)
		r.start()
		defer r.stop()
		for i, by := range []string{"relay", "splice", "direct", "relay"} {
			r.conf.Forwarding = by
			if err := r.proxy.Update(r.conf, r.pol, config.DefaultDrain()); err != nil {
				t.Fatal(err)
			}
			c, b := r.pair(h)
			r.say(c, "question")
			r.hear(b, "question")
			synctest.Wait()
			count := map[tcpinfo.Carrier]int{}
			for _, row := range r.proxy.Conns() {
				count[row.Carrier]++
			}
			if want := []string{"map[relay:1]", "map[relay:1 splice:1]", "map[direct:1 relay:1 splice:1]", "map[direct:1 relay:2 splice:1]"}[i]; fmt.Sprint(count) != want {
				t.Errorf("after %s there are %v, want %s", by, count, want)
			}
		}
	})
}

// A backend that a reload takes out is counted down to nothing, and one that comes
// back has its connections back, which then drain no more.
func TestABackendThatAReloadTakesOutAndBack(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.conf.Backends = []netip.AddrPort{back1, back2}
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer r.stop()
		c1, b1 := r.pair(one)
		r.pair(two)
		c1.CloseWrite() // half closed: a drain waits for the deadline
		r.hearEnd(b1)
		time.Sleep(time.Second)
		with := r.conf
		without := r.conf
		without.Backends = []netip.AddrPort{back2}
		if err := r.proxy.Update(without, r.pol, config.DefaultDrain()); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantDrains("reload 10.0.0.21:80/0 draining 1 left 0 clean; ")
		if err := r.proxy.Update(with, r.pol, config.DefaultDrain()); err != nil {
			r.Fatal(err)
		}
		r.wantDrains("reload 10.0.0.21:80/0 undrained 0 left 0 clean; ")
		time.Sleep(time.Minute)
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 2)
		if err := r.proxy.Update(without, r.pol, config.DefaultDrain()); err != nil {
			r.Fatal(err)
		}
		r.say(b1, "answer")
		b1.CloseWrite()
		r.hear(c1, "answer")
		r.hearEnd(c1)
		time.Sleep(time.Second)
		r.wantDrains("reload 10.0.0.21:80/0 drained 0 left 1 clean; reload 10.0.0.21:80/0 undrained 0 left 0 clean; ")
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 1)
	})
}

// A client whose backend cannot be carried to yet goes the ordinary way to that
// very backend: all have their turns, and one that rests its trial.
func TestWhatDirectSparesGoesToTheSameBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCarryRig(t, "direct")
		r.carry.Lost = true
		r.conf.Backends = []netip.AddrPort{back1, back2}
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer r.stop()
		for _, h := range []*servicestest.Host{one, two, one, two} {
			c, b := r.pair(h)
			r.say(c, "question")
			r.hear(b, "question")
		}
		r.net.Behave(back1, servicestest.Unreachable)
		for range 2 { // the first finds that it is dead, the second passes it over
			r.pair(two)
		}
		r.net.Behave(back1, servicestest.Answer)
		time.Sleep(time.Minute) // the rest is over
		for _, h := range []*servicestest.Host{one, two, one} {
			r.pair(h)
		}
	})
}
