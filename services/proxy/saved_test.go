package proxy_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

// move puts another proxy, on loops of its own and at another address, in the
// place of the rig's. What goes over is JSON.
func (r *rig) move() (n int) {
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
		byID[c.ID()] = c
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
