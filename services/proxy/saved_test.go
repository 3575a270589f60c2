package proxy_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

// move puts another proxy, on loops of its own and at another address, in the
// place of the rig's. What goes over is JSON.
func (r *rig) move(lost ...netip.AddrPort) (n int) {
	r.Helper()
	synctest.Wait()
	r.loops.Pause()
	saved, conns := r.proxy.Save()
	text, err := json.Marshal(saved)
	if err != nil {
		r.Fatal(err)
	}
	since := r.loops.Now()
	r.loops.Close() // the old one does nothing more

	conf := r.conf
	conf.Listen = []config.Listen{{Addrs: []netip.AddrPort{netip.AddrPortFrom(front.Addr(), 8000+uint16(since.Seconds()))}}}
	r.loops = services.NewLoops(services.LoopOptions{N: 2, Since: since})
	r.loops.Pause()
	r.proxy = proxy.New(conf, r.pol, r.env())
	if err := r.proxy.Start(); err != nil {
		r.Fatal(err)
	}
	var again services.Saved
	if err := json.Unmarshal(text, &again); err != nil {
		r.Fatal(err)
	}
	byID := make(map[uint64]services.Conn)
	for _, c := range conns {
		if !slices.Contains(lost, c.RemoteAddr()) {
			byID[c.ID()] = c
		}
	}
	n, err = r.proxy.Load(&again, func(id uint64) services.Conn {
		if c := byID[id]; c != nil {
			return c
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	r.loops.Resume()
	synctest.Wait()
	return n
}

// Sessions go on in another process where they were: open, half closed, with
// bytes held in both directions; and the totals with them.
func TestSessionsGoOnInAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Buffer = 4096
		h := r.backend(back1)
		r.start()
		defer func() { r.stop() }()
		gone, goneEnd := r.pair(h)
		gone.CloseWrite()
		goneEnd.Close()
		r.hearEnd(gone)
		gone.Close()

		idle, idleEnd := r.pair(h)
		r.say(idle, "one")
		r.hear(idleEnd, "one")
		half, halfEnd := r.pair(h)
		half.CloseWrite()
		r.hearEnd(halfEnd)
		full, fullEnd := r.pair(h)
		up, down := strings.Repeat("request", 5000), strings.Repeat("answer", 5000)
		sent := make(chan error, 2)
		go func() { _, err := io.WriteString(full.Split(), up); sent <- err }()
		go func() { _, err := io.WriteString(fullEnd.Split(), down); sent <- err }()
		time.Sleep(time.Second) // all that there is room for has moved
		before := r.proxy.Counters()

		for range 3 {
			if n := r.move(); n != 3 {
				t.Fatalf("%d sessions went over, want 3", n)
			}
			time.Sleep(time.Second)
		}
		after := r.proxy.Counters()
		if after.Active != 3 || after.Accepted != before.Accepted || after.Ended["finished"] != 1 || after.ToBackend < before.ToBackend {
			t.Errorf("the totals are %+v, were %+v", after, before)
		}
		if ended := r.proxy.Ended(); len(ended) != 1 || ended[0].Reason != services.Finished {
			t.Errorf("the ledger has %+v", ended)
		}
		if rows := r.proxy.Backends(); rows[0].Active != 3 || rows[0].Connects != 4 {
			t.Errorf("the backend has %+v", rows[0])
		}
		r.say(idle, "two")
		r.hear(idleEnd, "two")
		r.say(idleEnd, "three")
		r.hear(idle, "three")
		r.say(halfEnd, "the rest")
		r.hear(half, "the rest")
		halfEnd.Close()
		r.hearEnd(half)
		for _, d := range []struct {
			p    *servicestest.Peer
			want string
		}{{fullEnd, up}, {full, down}} {
			got := make([]byte, len(d.want))
			if _, err := io.ReadFull(d.p, got); err != nil || !bytes.Equal(got, []byte(d.want)) {
				t.Errorf("%d bytes came, not those that were sent: %v", len(got), err)
			}
		}
		for range 2 {
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
		for _, p := range []*servicestest.Peer{idle, idleEnd, full, fullEnd, half} {
			p.Close()
		}
		time.Sleep(time.Second)
		if c := r.proxy.Counters(); c.Ended["finished"] != 4 || c.ToBackend != int64(6+len(up)) {
			t.Errorf("the totals are %+v", c)
		}
	})
}

// Times go on: what was idle for half of idle_timeout has the other half left.
func TestTimersGoOnInAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.IdleTimeout = time.Minute
		h := r.backend(back1)
		r.start()
		defer func() { r.stop() }()
		client, backend := r.pair(h)
		r.say(client, "x")
		r.hear(backend, "x")
		began := time.Now()
		time.Sleep(30 * time.Second)
		r.move()
		r.hearEnd(client)
		if took := time.Since(began).Round(100 * time.Millisecond); took != time.Minute {
			t.Errorf("it ended after %v, want a minute", took)
		}
		client.Close()
		backend.Close()
		time.Sleep(time.Second)
		e := r.ended()
		if e.Reason != services.IdleTimeout || e.Lasted.Round(time.Second) != time.Minute {
			t.Errorf("ended %s after %v", e.Reason, e.Lasted)
		}
	})
}

// A dial that is under way begins anew, with the client still waiting, and a
// backend that failed rests on.
func TestADialBeginsAnewInAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Behave(back1, servicestest.Silent)
		r.start()
		defer func() { r.stop() }()
		client := r.client()
		r.say(client, "hello?")
		time.Sleep(time.Second)
		r.move()
		time.Sleep(time.Second)
		if n := r.net.Dials(back1); n != 2 {
			t.Errorf("%d dials, want the second", n)
		}
		r.net.Behave(back1, servicestest.Answer)
		h := r.backend(back1)
		time.Sleep(10 * time.Second) // connect_timeout, and the next attempt
		backend, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.hear(backend, "hello?")
		if e := r.proxy.Backends()[0]; e.Failures == 0 {
			t.Errorf("the backend has %+v", e)
		}
		r.move()
		if e := r.proxy.Backends()[0]; e.Failures == 0 || e.Connects != 1 || e.Active != 1 {
			t.Errorf("after the move the backend has %+v", e)
		}
		client.Close()
		backend.Close()
	})
}

// Drains go on with their deadline and their account, of a backend and of one
// that a reload has taken out; and those that are over are over.
func TestDrainsGoOnInAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2, back3}
		one, two, three := r.backend(back1), r.backend(back2), r.backend(back3)
		r.start()
		defer func() { r.stop() }()
		busy, busyEnd := r.pair(one)
		back, backEnd := r.pair(two)
		idle, idleEnd := r.pair(three)
		talk := make(chan struct{})
		for _, p := range []*servicestest.Peer{busyEnd, backEnd} { // never quiet
			go func() {
				for range 12_000 { // two minutes, should it never end
					select {
					case <-talk:
						return
					case <-time.After(10 * time.Millisecond):
						p.TryWrite([]byte("."))
					}
				}
			}()
		}
		how := config.DefaultDrain()
		how.Deadline, how.FinGrace, how.Max = time.Minute, time.Second, time.Hour
		for range 20 { // more than are remembered
			if err := r.proxy.DrainBackend(back3, how, "backend"); err != nil {
				t.Fatal(err)
			}
			if err := r.proxy.UndrainBackend(back3); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.proxy.DrainBackend(back1, how, "backend"); err != nil {
			t.Fatal(err)
		}
		r.conf.Backends = []netip.AddrPort{back1, back3}
		if err := r.proxy.Update(r.conf, r.pol, how); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.Sleep(20 * time.Second)
		for range 2 {
			if n := r.move(); n != 3 {
				t.Fatalf("%d sessions went over, want 3", n)
			}
			time.Sleep(10 * time.Second)
			for i, draining := range []bool{true, false} {
				if b := r.proxy.Backends()[i]; b.Draining != draining {
					t.Errorf("%s is draining: %v, want %v", b.Addr, b.Draining, draining)
				}
			}
		}
		if n := len(r.proxy.Conns()); n != 3 {
			t.Errorf("%d connections before the deadline, want all 3", n)
		}
		for _, p := range []*servicestest.Peer{busy, back} {
			if _, err := io.Copy(io.Discard, p); err != nil { // the end
				t.Error(err)
			}
		}
		if took := time.Since(began).Round(time.Second); took < time.Minute || took > time.Minute+2*time.Second {
			t.Errorf("busy connections ended after %v, want the deadline of a minute", took)
		}
		close(talk)
		for _, p := range []*servicestest.Peer{busy, back, busyEnd, backEnd} {
			p.Close()
		}
		time.Sleep(2 * time.Second)
		r.move()
		reports := map[string]services.Report{}
		for _, one := range r.proxy.DrainReports() {
			if one.Target.Backend != back3.String() {
				reports[one.Target.Backend+" "+one.Cause] = one
			}
		}
		for _, name := range []string{back1.String() + " backend", back2.String() + " reload"} {
			if got := reports[name]; got.Clean != 1 || len(got.Connections) != 1 || !got.Began.Equal(began) {
				t.Errorf("the report of the drain of %s is %+v", name, got)
			}
		}
		for _, row := range r.proxy.Drains() {
			if row.State == "draining" {
				t.Errorf("%+v goes on", row)
			}
		}
		if err := r.proxy.UndrainBackend(back1); err != nil {
			t.Error(err)
		}
		r.conf.Backends = append(r.conf.Backends, back2)
		with := r.proxy.Settings().Service
		with.Backends = r.conf.Backends
		if err := r.proxy.Update(with, r.pol, how); err != nil { // back2 comes back
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		r.move()
		for _, b := range r.proxy.Backends() {
			if b.Draining {
				t.Errorf("%s still drains", b.Addr)
			}
		}
		r.say(idle, "still")
		r.hear(idleEnd, "still")
		for _, p := range []*servicestest.Peer{idle, idleEnd} {
			p.Close()
		}
	})
}

// A service that drains as a whole goes on refusing, and comes back when that is
// taken back.
func TestAServiceGoesOnDrainingInAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer func() { r.stop() }()
		client, backend := r.pair(h)
		r.say(client, "busy")
		how := config.DefaultDrain()
		how.Deadline, how.Max = time.Minute, time.Hour
		if err := r.proxy.StartDrain(how, "maintenance"); err != nil {
			t.Fatal(err)
		}
		r.move()
		if got := r.proxy.Phase(); got != services.Draining {
			t.Errorf("it is %s, want draining", got)
		}
		r.hear(backend, "busy")
		r.hearEnd(client) // it is quiet
		client.Close()
		backend.Close()
		time.Sleep(time.Second)
		r.wantDrains("maintenance /0 drained 0 left 1 clean; ")
		if err := r.proxy.Undrain(); err != nil || r.proxy.Phase() != services.Serving {
			t.Errorf("taken back: %v, it is %s", err, r.proxy.Phase())
		}
	})
}

// A session of which a connection could not be made again ends, with a reason of
// its own, and is in the list.
func TestWhoIsLostOnTheWayIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = append(r.conf.Backends, back2)
		one, two := r.backend(back1), r.backend(back2)
		r.start()
		defer func() { r.stop() }()
		client, _ := r.pair(one)
		other, _ := r.pair(two)
		r.say(client, "hello")
		time.Sleep(time.Second)
		gone := r.proxy.Conns()
		slices.SortFunc(gone, func(a, b services.Row) int { return a.Backend.Compare(b.Backend) })
		if n := r.move(gone[0].Client, back2); n != 1 {
			t.Errorf("%d sessions went over, want one", n)
		}
		time.Sleep(time.Second)
		r.hearReset(other)
		ended := r.proxy.Ended()
		slices.SortFunc(ended, func(a, b services.Ended) int { return a.BackendAddr.Compare(b.BackendAddr) })
		if len(ended) != 2 {
			t.Fatalf("the ledger has %+v", ended)
		}
		for i, want := range []services.Reason{services.ClientLost, services.BackendLost} {
			if e := ended[i]; e.ID != gone[i].ID || e.ClientAddr != gone[i].Client || e.BackendAddr != gone[i].Backend || e.Reason != want || e.Outcome != services.Reset {
				t.Errorf("got %+v, want %s", e, want)
			}
			if e := ended[i]; e.Carrier != tcpinfo.Relay || e.Why != gone[i].Why || e.Why == "" {
				t.Errorf("connection %d was carried by %q because of %q, want relay because of %q", e.ID, e.Carrier, e.Why, gone[i].Why)
			}
		}
		if c := r.proxy.Counters(); c.Active != 0 || c.Ended["client_lost"] != 1 || c.Ended["backend_lost"] != 1 {
			t.Errorf("the totals are %+v", c)
		}
	})
}

// A question that waits for its answer is of the session, whatever the
// configuration says of heartbeats by then.
func TestAHalfHeardAnswerGoesOnInAnotherProcess(t *testing.T) {
	for name, next := range map[string]config.Heartbeat{
		"none": {}, "another": {Side: "backend", Idle: time.Second, Timeout: time.Second, Send: "ALIVE?", Expect: "YES"},
	} {
		t.Run(name, func(t *testing.T) {
			beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
				r.hear(backend, question)
				r.say(backend, answer[:3])
				time.Sleep(100 * time.Millisecond)
				r.conf.Heartbeat = next
				r.move()
				asked := time.Now()
				r.say(backend, answer[3:])
				time.Sleep(100 * time.Millisecond)
				r.silent(client) // it was the answer
				r.hear(backend, question)
				if waited := time.Since(asked).Round(time.Second); waited != 10*time.Second {
					r.Errorf("asked again after %v, want 10s", waited)
				}
				r.say(backend, answer[:3])
				time.Sleep(100 * time.Millisecond)
				r.move()
				r.say(backend, "X") // it was no answer
				r.hear(client, answer[:3]+"X")
			})
		})
	}
}
