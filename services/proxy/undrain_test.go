package proxy_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

// drains are the drains in words, newest first.
func (r *rig) drains() string {
	r.Helper()
	synctest.Wait()
	text := ""
	for _, d := range r.proxy.Drains() {
		text += fmt.Sprintf("%s %s/%d %s %d left %d clean; ", d.Cause, d.Backend, d.Conn, d.State, d.Left, d.Clean)
	}
	return text
}

func (r *rig) wantDrains(want string) {
	r.Helper()
	if got := r.drains(); got != want {
		r.Errorf("the drains are %q, want %q", got, want)
	}
}

// idle makes n pairs whose ends answer a FIN with theirs.
func (r *rig) idle(h *servicestest.Host, n int) {
	r.Helper()
	for range n {
		c, b := r.pair(h)
		answerFIN(r, c)
		answerFIN(r, b)
	}
	time.Sleep(time.Second)
}

func TestADrainedServiceIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 3)
		busy, back := r.pair(h)
		r.say(busy, "request")
		r.hear(back, "request")
		if err := r.proxy.Undrain(); !errors.Is(err, services.ErrNotDraining) {
			t.Errorf("undrain of what does not drain: %v", err)
		}
		if err := r.proxy.StartDrain(config.DefaultDrain(), "maintenance"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.net.Client(front); err == nil {
			t.Error("a new connection is taken while the service drains")
		}
		var again *services.DrainingError
		if err := r.proxy.StartDrain(config.DefaultDrain(), "maintenance"); !errors.As(err, &again) {
			t.Errorf("a second drain: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
		r.wantDrains("maintenance /0 draining 1 left 3 clean; ")
		if err := r.proxy.Undrain(); err != nil {
			t.Fatal(err)
		}
		r.wantDrains("maintenance /0 undrained 0 left 3 clean; ")
		time.Sleep(time.Minute) // past the deadline
		r.say(back, "answer")
		r.hear(busy, "answer")
		c, b := r.pair(h)
		r.say(c, "new")
		r.hear(b, "new")
		if r.proxy.Phase() != services.Serving {
			t.Errorf("it is %s, want serving", r.proxy.Phase())
		}
	})
}

func TestADrainedServiceStaysUntilItsProcessEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 2)
		if err := r.proxy.StartDrain(config.DefaultDrain(), "maintenance"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantDrains("maintenance /0 drained 0 left 2 clean; ")
		if r.proxy.Phase() != services.Draining {
			t.Errorf("it is %s, want draining", r.proxy.Phase())
		}
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		if report.Clean != 2 || len(report.Connections) != 2 || report.Cause != "maintenance" {
			t.Errorf("the report is %+v, want the two that ended before", report)
		}
		if err := r.proxy.Undrain(); !errors.Is(err, services.ErrNotDraining) {
			t.Errorf("undrain after the end: %v", err)
		}
	})
}

func TestADrainedBackendGetsNothingNewAndEndsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = append(r.conf.Backends, back2)
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer r.stop()
		for _, h := range []*servicestest.Host{one, two, one, two} {
			r.idle(h, 1)
		}
		if err := r.proxy.DrainBackend(back3, config.DefaultDrain(), "backend"); !errors.Is(err, services.ErrUnknown) {
			t.Errorf("drain of a backend there is not: %v", err)
		}
		if err := r.proxy.DrainBackend(back1, config.DefaultDrain(), "backend"); err != nil {
			t.Fatal(err)
		}
		var again *services.DrainingError
		if err := r.proxy.DrainBackend(back1, config.DefaultDrain(), "backend"); !errors.As(err, &again) {
			t.Errorf("a second drain: %v", err)
		}
		time.Sleep(time.Second)
		r.wantDrains("backend " + back1.String() + "/0 drained 0 left 2 clean; ")
		r.idle(two, 3) // all go to the other
		if n := len(r.proxy.Conns()); n != 5 {
			t.Errorf("%d connections, want five, all of the other backend", n)
		}
		for _, row := range r.proxy.Conns() {
			if row.Backend != back2 {
				t.Errorf("connection %d is %s's", row.ID, row.Backend)
			}
		}
		if err := r.proxy.UndrainBackend(back1); err != nil {
			t.Fatal(err)
		}
		if err := r.proxy.UndrainBackend(back1); !errors.Is(err, services.ErrNotDraining) {
			t.Errorf("a second undrain: %v", err)
		}
		first := r.proxy.Backends()[0].Connects
		client, other := r.client(), r.client()
		answerFIN(r, client)
		answerFIN(r, other)
		time.Sleep(time.Second)
		if got := r.proxy.Backends()[0].Connects; got != first+1 {
			t.Errorf("of two new connections it got %d, want one", got-first)
		}
	})
}

// With every backend drained a client is refused; a session that dialled while
// the drain began is drained too.
func TestWithEveryBackendDrainedClientsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client := r.client()
		for ; len(r.proxy.Conns()) == 0 || !r.proxy.Conns()[0].Backend.IsValid(); synctest.Wait() {
			time.Sleep(100 * time.Microsecond) // until its backend is being dialled
		}
		if err := r.proxy.DrainBackend(back1, config.DefaultDrain(), "backend"); err != nil {
			t.Fatal(err)
		}
		if b, err := h.Accept(); err == nil {
			answerFIN(r, b)
		}
		r.hearEnd(client)
		client.Close()
		time.Sleep(time.Second)
		late := r.client()
		r.hearReset(late)
		r.wantEnd(services.NoBackend, "us", services.ByRST, services.Reset)
	})
}

func TestOneConnectionDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 2)
		id := r.proxy.Conns()[0].ID
		if err := r.proxy.DrainConn(id, config.DefaultDrain(), "maintenance"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wantDrains(fmt.Sprintf("maintenance /%d drained 0 left 1 clean; ", id))
		if err := r.proxy.DrainConn(id, config.DefaultDrain(), "maintenance"); !errors.Is(err, services.ErrUnknown) {
			t.Errorf("drain of a connection that has ended: %v", err)
		}
		if rows := r.proxy.Conns(); len(rows) != 1 || rows[0].ID == id {
			t.Errorf("%+v are left, want the other", rows)
		}
	})
}

// Drains that are over are forgotten in time, one that goes on is not.
func TestOldDrainsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		busy, back := r.pair(h)
		r.say(busy, "request")
		r.hear(back, "request")
		first := r.proxy.Conns()[0].ID
		if err := r.proxy.DrainConn(first, config.Drain{Deadline: time.Hour, FinGrace: time.Second}, "maintenance"); err != nil {
			t.Fatal(err)
		}
		go func() { // it is never quiet
			for {
				if _, err := busy.Write([]byte("more")); err != nil {
					return
				}
				if _, err := back.Read(make([]byte, 100)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		for range 50 {
			c, b := r.pair(h)
			answerFIN(r, c)
			answerFIN(r, b)
			time.Sleep(time.Second)
			for _, row := range r.proxy.Conns() {
				if row.ID == first {
					continue
				}
				if err := r.proxy.DrainConn(row.ID, config.DefaultDrain(), "maintenance"); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		drains := r.proxy.Drains()
		if n := len(drains); n != 16 || drains[n-1].Conn != first || drains[n-1].State != "draining" {
			t.Errorf("%d drains are remembered, the oldest is %+v; want 16, the first of all among them", n, drains[n-1])
		}
	})
}

// Closes are spread over the time that spread says, and none comes early or late.
func TestSpreadKeepsClosesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 200)
		d := config.DefaultDrain()
		d.Spread = 10 * time.Second
		begun := time.Now()
		report := r.proxy.Drain(t.Context(), d)
		wantReport(t, report, 200, 0, 0, 9*time.Second, 1200*time.Millisecond)
		parts := [10]int{}
		for _, e := range report.Connections {
			at := e.Opened.Add(e.Lasted).Sub(begun)
			parts[min(int(at/time.Second), 9)]++
		}
		for i, n := range parts {
			if n < 8 || n > 40 {
				t.Errorf("in second %d there are %d closes of 200, want some 20 in each: %v", i, n, parts)
				break
			}
		}
	})
}

func TestADrainLastsAtLeastMin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		r.idle(h, 2)
		d := config.DefaultDrain()
		d.Min = 3 * time.Second
		wantReport(t, r.proxy.Drain(t.Context(), d), 2, 0, 0, 3*time.Second, 100*time.Millisecond)
	})
}

// max moves the deadline forward.
func TestADrainLastsAtMostMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		go func() { // busy for ever, and deaf to FIN
			for {
				if _, err := client.Write([]byte("more")); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		go func() {
			buf := make([]byte, 1000)
			for {
				if _, err := backend.Read(buf); err != nil {
					return
				}
			}
		}()
		d := config.DefaultDrain()
		d.Max = 8 * time.Second
		wantReport(t, r.proxy.Drain(t.Context(), d), 0, 1, 0, 8*time.Second, 300*time.Millisecond)
	})
}

// linger_read: what comes after our FIN is dropped without a word for that
// time, and answered with RST later.
func TestWhoSendsOnAfterOurFINIsResetAfterLingerRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		answerFIN(r, backend)
		time.Sleep(time.Second)
		d := config.DefaultDrain()
		d.LingerRead = 2 * time.Second
		done := r.background(t.Context(), d)
		r.hearEnd(client)
		for range 3 {
			time.Sleep(500 * time.Millisecond)
			r.say(client, "crossed")
		}
		time.Sleep(time.Second)
		_, _ = client.Write([]byte("too late")) // the reset may come before it returns
		time.Sleep(50 * time.Millisecond)
		wantReport(t, <-done, 0, 1, 0, 2500*time.Millisecond, 200*time.Millisecond)
	})
}

// A busy pair is cut past the deadline between an answer and the next request:
// the backend never sees what the client is to ask again.
func TestABusyPairIsCutBetweenAnAnswerAndTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		d := config.DefaultDrain()
		d.Deadline = time.Second
		done := r.background(t.Context(), d)
		begun := time.Now()
		answered := 0
		for time.Since(begun) < 3*time.Second { // a request every 30 ms, its answer in two parts
			if _, err := client.Write([]byte("request")); err != nil {
				break
			}
			asked := make([]byte, 7)
			if n, err := backend.Read(asked); err != nil {
				if n != 0 {
					t.Errorf("the backend got %q of a request that was cut", asked[:n])
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
			t.Errorf("cut after %v and %d answers, want soon after 1s", took, answered)
		}
		r.hearEnd(client)
		client.Close()
		backend.Close()
		wantReport(t, <-done, 1, 0, 0, 900*time.Millisecond, 700*time.Millisecond)
	})
}
