package proxy_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

func TestConnectionsTakeTurnsAmongBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2, back3}
		for _, a := range r.conf.Backends {
			r.backend(a)
		}
		r.start()
		defer r.stop()
		for range 9 {
			r.client()
		}
		time.Sleep(time.Second)
		for _, b := range r.proxy.Backends() {
			if b.Connects != 3 || b.Active != 3 || !b.Up {
				t.Errorf("backend %+v, want 3 connections and up", b)
			}
		}
	})
}

func TestARefusingBackendIsPassedOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2} // nobody listens on the first
		h := r.backend(back2)
		r.start()
		defer r.stop()
		begin := time.Now()
		client, backend := r.pair(h)
		r.say(client, "hello")
		r.hear(backend, "hello")
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("it took %v, want no wait", took)
		}
	})
}

func TestADeadBackendCostsOneClientATimeoutNotAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2}
		r.net.Behave(back1, servicestest.Silent)
		h := r.backend(back2)
		r.start()
		defer r.stop()
		begin := time.Now()
		r.pair(h)
		if took := time.Since(begin).Round(100 * time.Millisecond); took != r.conf.ConnectTimeout {
			t.Errorf("the first client waited %v, want the connect timeout of %v", took, r.conf.ConnectTimeout)
		}
		for range 20 {
			begin = time.Now()
			r.pair(h)
			if took := time.Since(begin); took > 50*time.Millisecond {
				t.Errorf("a later client waited %v, want no wait", took)
			}
		}
		if got := r.net.Dials(back1); got != 1 {
			t.Errorf("the dead backend was tried %d times, want 1", got)
		}
	})
}

func TestABackendThatReturnsIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2}
		h2 := r.backend(back2)
		r.start()
		defer r.stop()
		r.pair(h2)
		h1 := r.backend(back1)
		time.Sleep(2 * time.Second) // its rest is over
		served := make(chan struct{}, 4)
		go func() {
			for {
				if _, err := h1.Accept(); err != nil {
					return
				}
				served <- struct{}{}
			}
		}()
		for range 4 {
			r.client()
		}
		time.Sleep(time.Second)
		if len(served) != 2 {
			t.Errorf("it served %d of 4, want 2", len(served))
		}
		if !r.proxy.Backends()[0].Up {
			t.Error("it is listed as down, want up")
		}
		h1.Close()
		h1.Wake()
	})
}

func TestNoBackendResetsTheClient(t *testing.T) {
	cases := []struct {
		name    string
		arrange func(r *rig)
		took    time.Duration
	}{
		{"refused", func(*rig) {}, 700 * time.Millisecond},
		{"unreachable", func(r *rig) { r.net.Behave(back1, servicestest.Unreachable) }, 700 * time.Millisecond},
		{"silent", func(r *rig) { r.net.Behave(back1, servicestest.Silent) }, 20700 * time.Millisecond},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				tc.arrange(r)
				r.start()
				defer r.stop()
				begin := time.Now()
				client := r.client()
				r.say(client, "anybody there?")
				r.hearReset(client)
				if took := time.Since(begin); took < tc.took || took > tc.took+150*time.Millisecond {
					t.Errorf("it took %v, want about %v", took, tc.took)
				}
				e := r.wantEnd(services.NoBackend, "us", services.ByRST, services.Reset)
				if got := r.net.Dials(back1); got != 4 {
					t.Errorf("%d attempts, want one and three retries", got)
				}
				if e.Detail == "" {
					t.Error("no detail, want the last error")
				}
			})
		})
	}
}

func TestAClientThatFinishesDuringTheConnectIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Backends = []netip.AddrPort{back1, back2}
		r.net.Behave(back1, servicestest.Silent)
		h := r.backend(back2)
		r.start()
		defer r.stop()
		client := r.client()
		r.say(client, "question")
		client.CloseWrite()
		backend, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.hear(backend, "question")
		r.hearEnd(backend)
		r.say(backend, "answer")
		backend.Close()
		r.hear(client, "answer")
		r.hearEnd(client)
		time.Sleep(time.Second)
		r.wantEnd(services.Finished, "client", services.ByFIN, services.Clean)
	})
}

func TestAClientThatResetsDuringTheConnectIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Behave(back1, servicestest.Silent)
		r.start()
		defer r.stop()
		client := r.client()
		time.Sleep(time.Second)
		client.Abort()
		time.Sleep(time.Second)
		r.wantEnd(services.ClientLeft, "client", services.ByRST, services.Clean)
		if open := r.net.Open(); open != 0 {
			t.Errorf("%d connections are open, want the attempt given up", open)
		}
		if !r.proxy.Backends()[0].Up {
			t.Error("the backend is blamed for it")
		}
	})
}

func TestIdleConnectionsEndWithFIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.IdleTimeout = time.Minute
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		for range 5 {
			time.Sleep(50 * time.Second)
			r.say(client, "x")
			r.hear(backend, "x")
		}
		begin := time.Now()
		r.hearEnd(client)
		r.hearEnd(backend)
		if took := time.Since(begin).Round(50 * time.Millisecond); took != time.Minute {
			t.Errorf("it was closed after %v, want 1m", took)
		}
		client.Close()
		backend.Close()
		time.Sleep(time.Second)
		r.wantEnd(services.IdleTimeout, "us", services.ByFIN, services.Clean)
		// One that doesn't answer the FIN is reset after fin_wait2.
		client, backend = r.pair(h)
		r.hearEnd(client)
		client.Close()
		time.Sleep(2 * time.Minute)
		r.wantEnd(services.IdleTimeout, "us", services.ByFIN, services.Reset)
		if backend.State() != "CLOSED" {
			t.Errorf("the silent backend's connection is %s, want CLOSED", backend.State())
		}
	})
}

func TestASilentHalfCloseIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.IdleTimeout = time.Hour
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		client.CloseWrite()
		r.hearEnd(backend)
		begin := time.Now()
		r.hearReset(client)
		if took := time.Since(begin).Round(50 * time.Millisecond); took != r.pol.HalfClose {
			t.Errorf("it took %v, want half_close of %v", took, r.pol.HalfClose)
		}
		r.wantEnd(services.HalfCloseTimeout, "client", services.ByFIN, services.Reset)
	})
}

func TestAPeerThatVanishesBeforeTheLastACKIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		client.CloseWrite()
		r.hearEnd(backend)
		client.Vanish()
		backend.Close()
		time.Sleep(time.Second)
		if c := r.proxy.Counters(); c.Settling != 1 || c.Active != 0 {
			t.Errorf("%d settling, %d active; want 1 and 0", c.Settling, c.Active)
		}
		time.Sleep(r.pol.UserTimeout)
		e := r.wantEnd(services.FinUnacked, "client", services.ByFIN, services.Unacked)
		if e.Client.FinAcked || !e.Backend.FinAcked {
			t.Errorf("acknowledged: client %v, backend %v; want only the backend", e.Client.FinAcked, e.Backend.FinAcked)
		}
	})
}
