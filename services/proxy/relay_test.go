package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

func TestRandomTrafficArrivesUnchangedBothWays(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomTraffic(t, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func randomTraffic(t *testing.T, rng *rand.Rand) {
	r := newRig(t)
	r.net.Buffer = 1 << (6 + rng.IntN(13))
	r.net.Delay = []time.Duration{0, time.Microsecond, 3 * time.Millisecond}[rng.IntN(3)]
	h := r.backend(back1)
	r.start()
	defer r.stop()
	var all sync.WaitGroup
	for range 1 + rng.IntN(4) {
		client, backend := r.pair(h)
		up, down := randomBytes(rng), randomBytes(rng)
		clientWriter, backendWriter, seed := client.Split(), backend.Split(), rng.Uint64()
		all.Go(func() { sendAll(t, clientWriter, up, seed) })
		all.Go(func() { sendAll(t, backendWriter, down, seed+1) })
		all.Go(func() { receiveAll(t, backend, up, seed+2) })
		all.Go(func() { receiveAll(t, client, down, seed+3) })
	}
	all.Wait()
	time.Sleep(time.Second)
	e := r.wantEnd(services.Finished, r.ended().First.Who, services.ByFIN, services.Clean)
	if !e.Client.FinAcked || !e.Backend.FinAcked {
		t.Errorf("FINs acknowledged: client %v, backend %v; want both", e.Client.FinAcked, e.Backend.FinAcked)
	}
}

func randomBytes(rng *rand.Rand) []byte {
	b := make([]byte, rng.IntN(1<<rng.IntN(22)+1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// sendAll writes b in pieces, with pauses, and ends with FIN.
func sendAll(t *testing.T, p *servicestest.Peer, b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for len(b) > 0 {
		n := min(len(b), 1+rng.IntN(1<<rng.IntN(19)))
		if _, err := p.Write(b[:n]); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		b = b[n:]
		maybeSleep(rng)
	}
	if err := p.CloseWrite(); err != nil {
		t.Errorf("close write: %v", err)
	}
}

// receiveAll reads to the end in pieces, with pauses.
func receiveAll(t *testing.T, p *servicestest.Peer, want []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	var got []byte
	for {
		piece := make([]byte, 1+rng.IntN(1<<rng.IntN(19)))
		n, err := p.Read(piece)
		got = append(got, piece[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("read after %d bytes: %v", len(got), err)
			return
		}
		maybeSleep(rng)
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Errorf("received %d bytes, want the %d that were sent", len(got), len(want))
	}
}

func maybeSleep(rng *rand.Rand) {
	if rng.IntN(4) == 0 {
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
	}
}

func TestHalfCloseByTheClientLeavesTheAnswerGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		r.say(client, "question")
		client.CloseWrite()
		r.hear(backend, "question")
		r.hearEnd(backend)
		time.Sleep(4 * time.Minute) // less than half_close
		r.say(backend, "answer")
		r.hear(client, "answer")
		backend.Close()
		r.hearEnd(client)
		client.Close()
		time.Sleep(time.Second)
		r.wantEnd(services.Finished, "client", services.ByFIN, services.Clean)
	})
}

func TestHalfCloseByTheBackendLeavesTheRequestGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		r.say(backend, "banner")
		backend.CloseWrite()
		r.hear(client, "banner")
		r.hearEnd(client)
		for range 10 {
			time.Sleep(4 * time.Minute) // more than half_close in all, never silent for so long
			r.say(client, "more")
			r.hear(backend, "more")
		}
		client.Close()
		r.hearEnd(backend)
		backend.Close()
		time.Sleep(time.Second)
		r.wantEnd(services.Finished, "backend", services.ByFIN, services.Clean)
	})
}

func TestAResetPassesAsAReset(t *testing.T) {
	cases := []struct {
		name   string
		reason services.Reason
		who    string
		pick   func(c, b *servicestest.Peer) (from, to *servicestest.Peer)
	}{
		{"from the client", services.ClientReset, "client", func(c, b *servicestest.Peer) (_, _ *servicestest.Peer) { return c, b }},
		{"from the backend", services.BackendReset, "backend", func(c, b *servicestest.Peer) (_, _ *servicestest.Peer) { return b, c }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				h := r.backend(back1)
				r.start()
				defer r.stop()
				from, to := tc.pick(r.pair(h))
				r.say(from, "some")
				r.hear(to, "some")
				from.Abort()
				r.hearReset(to)
				e := r.wantEnd(tc.reason, tc.who, services.ByRST, services.Clean)
				if e.Client.Reset == e.Backend.Reset {
					t.Errorf("we reset client %v, backend %v; want only the other side", e.Client.Reset, e.Backend.Reset)
				}
			})
		})
	}
}

// A side that isn't read, because it has finished or because the other side is
// slow, is still seen to die.
func TestAResetIsSeenOnASideThatIsNotRead(t *testing.T) {
	t.Run("after its FIN", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			h := r.backend(back1)
			r.start()
			defer r.stop()
			client, backend := r.pair(h)
			client.CloseWrite()
			r.hearEnd(backend)
			client.Abort()
			time.Sleep(time.Second)
			r.hearReset(backend)
			r.wantEnd(services.ClientReset, "client", services.ByFIN, services.Clean)
		})
	})
	t.Run("while the other is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.net.Buffer = 1000
			h := r.backend(back1)
			r.start()
			defer r.stop()
			client, backend := r.pair(h)
			go client.Split().Write(make([]byte, 1<<20))
			time.Sleep(time.Second) // the backend reads nothing
			client.Abort()
			synctest.Wait()
			time.Sleep(time.Second)
			r.wantEnd(services.ClientReset, "client", services.ByRST, services.Clean)
			if _, err := io.Copy(io.Discard, backend); err == nil {
				t.Error("the backend read to an orderly end, want a reset")
			}
		})
	})
}

func TestASideThatTimesOutResetsTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		client.Peer().TimeOut() // our end of the client's connection
		r.hearReset(backend)
		r.wantEnd(services.ClientTimeout, "client", services.ByTimeout, services.Reset)
		client, backend = r.pair(h)
		backend.Peer().TimeOut()
		r.hearReset(client)
		r.wantEnd(services.BackendTimeout, "backend", services.ByTimeout, services.Reset)
	})
}

func TestASlowReaderSlowsTheSenderDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Buffer = 10_000
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		sent := make(chan int, 1)
		go func() {
			n, _ := client.Write(bytes.Repeat([]byte("x"), 1<<20)) // ends with an error when the test closes
			sent <- n
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		// Four buffers of 10 kB lie between the ends, and what the pair holds.
		if got := r.proxy.Counters().ToBackend; got > 20_000 {
			t.Errorf("the proxy passed on %d bytes to a backend that reads nothing, want at most two buffers", got)
		}
		backend.Abort()
		if n := <-sent; n > 60_000 {
			t.Errorf("the client could send %d bytes, want at most 60000", n)
		}
	})
}

func TestAConnectionWhoseTaskPanicsIsAbortedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		bad, badBackend := r.pair(h)
		good, goodBackend := r.pair(h)
		bad.Peer().Crash("fault")
		r.hearReset(bad)
		r.hearReset(badBackend)
		r.wantEnd(services.InternalError, "us", services.ByRST, services.Reset)
		r.say(good, "still here")
		r.hear(goodBackend, "still here")
		if got := r.loops.Stats().Panics; got != 1 {
			t.Errorf("%d panics counted, want 1", got)
		}
	})
}

func TestMaxConnsLeavesTheRestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.MaxConns = 2
		h := r.backend(back1)
		r.start()
		defer r.stop()
		first, firstBackend := r.pair(h)
		_, _ = r.pair(h)
		third := r.client() // the stack completes its handshake
		r.say(third, "hello")
		time.Sleep(time.Minute)
		synctest.Wait()
		if c := r.proxy.Counters(); c.Active != 2 || c.Full != 1 {
			t.Errorf("%d active, full %d times; want 2 and 1", c.Active, c.Full)
		}
		first.Close()
		firstBackend.Close()
		b, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.hear(b, "hello")
	})
}

func TestListingShowsALiveConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		r.say(client, "12345")
		r.hear(backend, "12345")
		r.say(backend, "123")
		backend.CloseWrite()
		time.Sleep(10 * time.Second)
		rows := r.proxy.Conns()
		if len(rows) != 1 {
			t.Fatalf("%d rows, want 1", len(rows))
		}
		got := rows[0]
		if got.Client != client.LocalAddr() || got.Local != front || got.Backend != back1 || got.Service != "web" ||
			got.State != "FIN-WAIT-2/CLOSE-WAIT" || got.ToBackend != 5 || got.ToClient != 3 || got.Stage != "relaying" ||
			got.Idle < 9*time.Second || got.Idle > 10*time.Second || got.Age < 10*time.Second || got.Connect <= 0 {
			t.Errorf("row is %+v", got)
		}
	})
}

func TestTenThousandPairsEcho(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1_000
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Buffer = 256
		h := r.backend(back1)
		r.start()
		defer r.stop()
		clients, backends := make([]*servicestest.Peer, n), make([]*servicestest.Peer, n)
		for i := range n {
			clients[i], backends[i] = r.pair(h)
		}
		for i := range n {
			r.say(clients[i], fmt.Sprintf("%06d", i))
		}
		seen := make(map[string]bool, n)
		for _, b := range backends {
			got := make([]byte, 6)
			if _, err := io.ReadFull(b, got); err != nil {
				t.Fatal(err)
			}
			seen[string(got)] = true
			r.say(b, string(got))
			b.Close()
		}
		for i, c := range clients {
			r.hear(c, fmt.Sprintf("%06d", i))
			r.hearEnd(c)
			c.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		c := r.proxy.Counters()
		if len(seen) != n || c.Active != 0 || c.Settling != 0 || c.Ended["finished"] != uint64(n) {
			t.Errorf("%d arrived, %+v; want %d finished and nothing left", len(seen), c, n)
		}
		if open := r.net.Open(); open != 0 {
			t.Errorf("%d connections were never closed, want 0", open)
		}
	})
}
