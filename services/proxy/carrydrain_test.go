package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

// chatter sends a byte every 20 ms and answers a FIN.
func chatter(r *rig, p *servicestest.Peer) {
	answerFIN(r, p)
	q := p.Split()
	go func() {
		for {
			if _, err := q.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
}

// Many quiet connections end within two round trips of the first word, but for
// the time that a listener stays open.
func TestADrainEndsQuietCarriedConnectionsAtOnce(t *testing.T) {
	n := 3000 // more than a run ends at once
	if testing.Short() {
		n = 30 // the race detector does not bear many timers at one moment: each segment is one
	}
	bothCarriers(t, func(r *rig) {
		r.net.Delay = 10 * time.Millisecond
		h := r.backend(back1)
		r.start()
		defer r.stop()
		for range n {
			c, b := r.pair(h)
			answerFIN(r, c)
			answerFIN(r, b)
		}
		time.Sleep(time.Second)
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), n)
		begun := time.Now()
		report := r.proxy.Drain(r.Context(), config.DefaultDrain())
		wantReport(r.T, report, n, 0, 0, 0, 300*time.Millisecond)
		r.wantEnd(services.Drained, "us", services.ByFIN, services.Clean)
		var last time.Duration
		for _, e := range report.Connections {
			last = max(last, e.Opened.Add(e.Lasted).Sub(begun))
		}
		if last > 40*time.Millisecond {
			r.Errorf("the last has ended after %v, want two round trips, 40ms", last)
		}
		if ends := r.carry.Ends(); ends != n {
			r.Errorf("%d ends were asked for, want %d", ends, n)
		}
	})
}

func TestADrainWaitsUntilACarriedConnectionIsQuiet(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		go func() {
			for range 40 { // two seconds
				time.Sleep(50 * time.Millisecond)
				r.say(b, "x")
			}
			answerFIN(r, b)
		}()
		report := r.proxy.Drain(r.Context(), config.DefaultDrain())
		wantReport(r.T, report, 1, 0, 0, 2100*time.Millisecond, 60*time.Millisecond)
		if e := r.wantEnd(services.Drained, "us", services.ByFIN, services.Clean); e.ToClient != 40 {
			r.Errorf("%d bytes arrived, want all 40", e.ToClient)
		}
	})
}

func TestADrainWaitsForTheAnswerToACarriedRequest(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		r.say(c, "question")
		c.CloseWrite()
		done := r.background(r.Context(), config.DefaultDrain())
		r.hear(b, "question")
		time.Sleep(10 * time.Second)
		r.say(b, "answer")
		b.Close()
		r.hear(c, "answer")
		r.hearEnd(c)
		c.Close()
		wantReport(r.T, <-done, 1, 0, 0, 10*time.Second, 50*time.Millisecond)
		r.wantEnd(services.Finished, "client", services.ByFIN, services.Clean)
	})
}

func TestABusyCarriedConnectionEndsAtTheDeadline(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		chatter(r, b)
		deaf, end := r.pair(h) // never answers the FIN
		chatter(r, end)
		go io.Copy(io.Discard, onlyReader{deaf})
		report := r.proxy.Drain(r.Context(), config.DefaultDrain())
		wantReport(r.T, report, 1, 1, 0, 34*time.Second, 1050*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Reset)
	})
}

// Where a look at all connections takes long, there are fewer, but for that at the deadline.
func TestTheDeadlineHoldsHoweverLongALookTakes(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		chatter(r, b)
		time.Sleep(time.Second)
		r.carry.Slow = 300 * time.Millisecond // the next look of itself would be three seconds later
		d := config.DefaultDrain()
		d.Deadline = 2 * time.Second
		report := r.proxy.Drain(r.Context(), d)
		wantReport(r.T, report, 1, 0, 0, 2300*time.Millisecond, services.TurnMost+100*time.Millisecond)
		r.carry.Slow = 0
	})
}

// onlyReader hides what else a Peer can.
type onlyReader struct{ io.Reader }

func TestABusyCarriedConnectionIsCutBetweenAnAnswerAndTheNextRequest(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		d := config.DefaultDrain()
		d.Deadline = time.Second
		done := r.background(r.Context(), d)
		begun, answered := time.Now(), 0
		for time.Since(begun) < 3*time.Second { // a request every 30 ms, its answer in two parts
			if _, err := client.Write([]byte("request")); err != nil {
				break
			}
			asked := make([]byte, 7)
			if n, err := backend.Read(asked); err != nil {
				if n != 0 {
					r.Errorf("the backend got %q of a request that was cut", asked[:n])
				}
				break
			}
			r.say(backend, "first half, ")
			time.Sleep(15 * time.Millisecond)
			r.say(backend, "second half")
			r.hear(client, "first half, second half")
			answered++
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begun); took < 900*time.Millisecond || took > 1600*time.Millisecond || answered < 30 {
			r.Errorf("cut after %v and %d answers, want soon after 1s", took, answered)
		}
		r.hearEnd(client)
		client.Close()
		backend.Close()
		wantReport(r.T, <-done, 1, 0, 0, 900*time.Millisecond, 700*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Clean)
	})
}

func TestCancelingADrainMakesTheDeadlineOfCarriedConnectionsNow(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		chatter(r, b)
		ctx, cancel := context.WithCancel(r.Context())
		done := r.background(ctx, config.DefaultDrain())
		time.Sleep(3 * time.Second)
		cancel()
		wantReport(r.T, <-done, 1, 0, 0, 3*time.Second, 600*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Clean)
	})
}

func TestCloseDuringADrainEndsCarriedConnections(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		chatter(r, b)
		done := r.background(r.Context(), config.DefaultDrain())
		time.Sleep(time.Second)
		r.proxy.Close()
		wantReport(r.T, <-done, 0, 1, 0, time.Second, 50*time.Millisecond)
		r.wantEnd(services.Stopped, "us", services.ByRST, services.Reset)
	})
}

func TestADrainedServiceOfCarriedConnectionsIsTakenBack(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 3)
		busy, back := r.pair(h)
		r.say(busy, "request")
		r.hear(back, "request")
		if err := r.proxy.StartDrain(config.DefaultDrain(), "maintenance"); err != nil {
			r.Fatal(err)
		}
		if _, err := r.net.Client(front); err == nil {
			r.Error("a new connection is taken while the service drains")
		}
		time.Sleep(50 * time.Millisecond)
		r.wantDrains("maintenance /0 draining 1 left 3 clean; ")
		if err := r.proxy.Undrain(); err != nil {
			r.Fatal(err)
		}
		r.wantDrains("maintenance /0 undrained 0 left 3 clean; ")
		time.Sleep(time.Minute) // past the deadline
		r.say(back, "answer")
		r.hear(busy, "answer")
		c, b := r.pair(h)
		r.say(c, "new")
		r.hear(b, "new")
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 2)
	})
}

func TestADrainedBackendEndsItsCarriedConnections(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.conf.Backends = append(r.conf.Backends, back2)
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer r.stop()
		for _, h := range []*servicestest.Host{one, two, one, two} {
			r.idle(h, 1)
		}
		if err := r.proxy.DrainBackend(back1, config.DefaultDrain(), "backend"); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantDrains("backend " + back1.String() + "/0 drained 0 left 2 clean; ")
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 2)
		r.idle(two, 3) // all go to the other
		for _, row := range r.proxy.Conns() {
			if row.Backend != back2 {
				r.Errorf("connection %d is %s's", row.ID, row.Backend)
			}
		}
		if err := r.proxy.UndrainBackend(back1); err != nil {
			r.Fatal(err)
		}
		r.client()
		r.client() // one of them is the backend's again
		time.Sleep(time.Minute)
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 7)
		if active := r.proxy.Backends()[0].Active; active != 1 {
			r.Errorf("the backend has %d connections, want one", active)
		}
	})
}

// A connection whose backend begins to drain while it is dialled drains too.
func TestADrainThatBeganMeanwhileCounts(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.net.Delay = 50 * time.Millisecond
		h := r.backend(back1)
		r.start()
		defer r.stop()
		connected := make(chan *servicestest.Peer)
		go func() { connected <- r.client() }()
		for r.net.Dials(back1) == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := r.proxy.DrainBackend(back1, config.DefaultDrain(), "backend"); err != nil {
			r.Fatal(err)
		}
		c := <-connected
		b, err := h.Accept()
		if err != nil {
			r.Fatal(err)
		}
		r.hearEnd(c)
		c.Close()
		b.Close()
		time.Sleep(time.Second)
		r.wantEnd(services.Drained, "us", services.ByFIN, services.Clean)
		r.wantDrains("backend " + back1.String() + "/0 drained 0 left 1 clean; ")
	})
}

func TestOneCarriedConnectionDrains(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 1)
		c, b := r.pair(h)
		answerFIN(r, c)
		chatter(r, b)
		time.Sleep(time.Second)
		var busy uint64
		for _, row := range r.proxy.Conns() {
			if row.ToClient > 0 {
				busy = row.ID
			}
		}
		d := config.DefaultDrain()
		if err := r.proxy.DrainConn(busy, d, "maintenance"); err != nil {
			r.Fatal(err)
		}
		var again *services.DrainingError
		if err := r.proxy.DrainConn(busy, d, "maintenance"); !errors.As(err, &again) {
			r.Errorf("a second drain: %v", err)
		}
		if err := r.proxy.DrainConn(busy+1000, d, "maintenance"); !errors.Is(err, services.ErrUnknown) {
			r.Errorf("a drain of what is not there: %v", err)
		}
		r.wantDrains(fmt.Sprintf("maintenance /%d draining 1 left 0 clean; ", busy))
		for _, row := range r.proxy.Conns() {
			if drains := len(row.Timers) > 0; drains != (row.ID == busy) {
				r.Errorf("connection %d has the timers %v", row.ID, row.Timers)
			}
		}
		time.Sleep(d.Deadline + time.Second)
		r.wantDrains(fmt.Sprintf("maintenance /%d drained 0 left 1 clean; ", busy))
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Clean)
		r.wantCarried(tcpinfo.Carrier(r.conf.Forwarding), 1)
	})
}

// A direct client that still waits for a backend at the deadline is refused.
func TestADrainWhileADirectClientWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCarryRig(t, "direct")
		r.net.Behave(back1, servicestest.Silent)
		r.conf.ConnectTimeout = time.Hour
		r.start()
		defer r.stop()
		refused := make(chan error, 1)
		go func() { _, err := r.net.Client(front); refused <- err }()
		time.Sleep(time.Second)
		d := config.DefaultDrain()
		wantReport(t, r.proxy.Drain(t.Context(), d), 0, 1, 0, d.Deadline, 50*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByRST, services.Reset)
		if err := <-refused; err == nil {
			t.Error("the client was connected")
		}
	})
}

// Closes are spread over the time that spread says.
func TestSpreadKeepsClosesOfCarriedConnectionsApart(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 200)
		d := config.DefaultDrain()
		d.Spread = 10 * time.Second
		begun := time.Now()
		report := r.proxy.Drain(r.Context(), d)
		wantReport(r.T, report, 200, 0, 0, 9*time.Second, 1200*time.Millisecond)
		parts := [10]int{}
		for _, e := range report.Connections {
			parts[min(int(e.Opened.Add(e.Lasted).Sub(begun)/time.Second), 9)]++
		}
		for i, n := range parts {
			if n < 8 || n > 40 {
				r.Errorf("in second %d there are %d closes of 200, want some 20 in each: %v", i, n, parts)
				break
			}
		}
	})
}

// Carried connections are the Carrier's own to hand over; the next process counts
// them, and goes on draining those that drained.
func TestCarriedConnectionsGoOnInAnotherProcess(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		r.conf.Backends = []netip.AddrPort{back1, back2}
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer func() { r.stop() }()
		c1, b1 := r.pair(one)
		r.idle(two, 1)
		time.Sleep(time.Second)
		r.conf.Backends = []netip.AddrPort{back2} // the next one does not know the first
		if n := r.move(); n != 2 {
			r.Errorf("%d connections live on, want 2", n)
		}
		by := tcpinfo.Carrier(r.conf.Forwarding)
		synctest.Wait()
		if k := r.proxy.Counters(); k.Active != 2 || k.Carried[by] != 2 || k.Accepted != 2 {
			r.Errorf("the counters are %+v", k)
		}
		if active := r.proxy.Backends()[0].Active; active != 1 {
			r.Errorf("the second backend has %d connections, want 1", active)
		}
		r.say(c1, "question")
		r.hear(b1, "question")
		answerFIN(r, c1)
		answerFIN(r, b1)
		if err := r.proxy.DrainBackend(back2, config.DefaultDrain(), "backend"); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantDrains("backend 10.0.0.22:80/0 drained 0 left 1 clean; ")
		wantReport(r.T, r.proxy.Drain(r.Context(), config.DefaultDrain()), 1, 0, 0, 0, 300*time.Millisecond)
	})
}

// A service that is there again while the one before of its name drains has
// connections of its own, and keeps them in the next process.
func TestTwoServicesOfOneNameHaveTheirOwnCarriedConnections(t *testing.T) {
	bothCarriers(t, func(r *rig) {
		h := r.backend(back1)
		r.start()
		old := r.proxy
		c1, b1 := r.pair(h)
		r.say(c1, "question")
		c1.CloseWrite()
		r.hear(b1, "question") // it drains until it is answered
		time.Sleep(time.Second)
		old.Withdraw(nil)
		if err := old.StartDrain(config.DefaultDrain(), "reload"); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second)
		r.owner = "web/2"
		r.conf.Listen = []config.Listen{{Addrs: []netip.AddrPort{netip.AddrPortFrom(front.Addr(), 81)}}}
		r.proxy = proxy.New(r.conf, r.pol, r.env())
		if err := r.proxy.Start(); err != nil {
			r.Fatal(err)
		}
		defer func() { r.stop() }()
		if _, err := r.net.Client(r.conf.Listen[0].Addrs[0]); err != nil {
			r.Fatal(err)
		}
		time.Sleep(time.Second)
		if of, with := old.Conns(), r.proxy.Conns(); len(of) != 1 || len(with) != 1 || of[0].ID == with[0].ID {
			r.Errorf("the old one has %+v and the new one %+v, want one each", of, with)
		}
		b1.CloseWrite()
		r.hearEnd(c1)
		time.Sleep(time.Second)
		if report := old.Drain(r.Context(), config.DefaultDrain()); report.Clean != 1 {
			r.Errorf("the old one's report is %+v", report)
		}
		old.Close()
		r.owner = ""
		if n := r.move(); n != 1 {
			r.Errorf("%d connections live on, want 1", n)
		}
		if k := r.proxy.Counters(); k.Active != 1 {
			r.Errorf("the counters are %+v", k)
		}
		id := r.proxy.Conns()[0].ID
		if p, err := r.proxy.Probe(r.Context(), id); err != nil || p.Client.Alive != tcpinfo.Answers {
			r.Errorf("the probe of connection %d got %+v, %v", id, p, err)
		}
		if n := r.proxy.Forsake(front.Addr()); n != 1 {
			r.Errorf("%d connections were on the address, want 1", n)
		}
		time.Sleep(time.Second)
		r.wantEnd(services.AddressLost, "us", services.ByRST, services.Reset)
	})
}
