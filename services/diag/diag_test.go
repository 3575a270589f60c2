package diag_test

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/diag"
	"github.com/lastack/lastack/services/servicestest"
)

var front = netip.MustParseAddrPort("198.51.100.1:7")

// rig is one diagnostic service on a network in memory.
type rig struct {
	*testing.T
	net   *servicestest.Net
	loops *services.Loops
	diag  *diag.Diag

	serving atomic.Bool
}

// run starts a service of the type, calls f inside a bubble, and ends all.
func run(t *testing.T, kind string, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, net: &servicestest.Net{Delay: time.Millisecond, Buffer: 5000}}
		r.loops = services.NewLoops(services.LoopOptions{N: 2})
		defer r.loops.Close()
		c := config.Service{Name: kind, Type: kind, Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}}}
		var err error
		r.diag, err = diag.New(c, config.DefaultPolicy(), services.Env{Network: r.net, Loops: r.loops, Log: slog.New(slog.DiscardHandler), Serving: r.serving.Load})
		if err == nil {
			err = r.diag.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.diag.Close()
		f(r)
	})
}

func (r *rig) client() *servicestest.Peer {
	r.Helper()
	c, err := r.net.Client(front)
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) wantEnd(reason services.Reason, who string, o services.Outcome) services.Ended {
	r.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	all := r.diag.Ended()
	if len(all) == 0 {
		r.Fatal("no connection has ended")
	}
	e := all[0]
	if e.Reason != reason || e.First.Who != who || e.Outcome != o {
		r.Errorf("ended %s (%s), first %s, outcome %s; want %s, %s, %s", e.Reason, e.Detail, e.First.Who, e.Outcome, reason, who, o)
	}
	return e
}

func TestEchoReturnsEverythingAndThenTheFIN(t *testing.T) {
	run(t, "echo", func(r *rig) {
		c := r.client()
		sent := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
		writer := c.Split()
		go func() {
			writer.Write(sent)
			writer.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
		}
		c.Close()
		if e := r.wantEnd(services.Finished, "client", services.Clean); e.ToBackend != int64(len(sent)) || e.ToClient != int64(len(sent)) {
			t.Errorf("counted %d in, %d out; want %d each", e.ToBackend, e.ToClient, len(sent))
		}
	})
}

func TestEchoDoesNotReadWhatIsNotTakenBack(t *testing.T) {
	run(t, "echo", func(r *rig) {
		c := r.client()
		go c.Split().Write(make([]byte, 1<<20))
		time.Sleep(time.Minute)
		if got := r.diag.Counters().ToBackend; got > 20_000 {
			t.Errorf("it read %d bytes from a client that reads nothing, want about two buffers", got)
		}
		c.Abort()
		r.wantEnd(services.ClientReset, "client", services.Clean)
	})
}

func TestDiscardTakesEverythingAndSaysNothing(t *testing.T) {
	run(t, "discard", func(r *rig) {
		c := r.client()
		c.Write(make([]byte, 1<<20))
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || len(got) != 0 {
			t.Errorf("got %d bytes, %v; want only the FIN", len(got), err)
		}
		c.Close()
		if e := r.wantEnd(services.Finished, "client", services.Clean); e.ToBackend != 1<<20 {
			t.Errorf("counted %d bytes in, want %d", e.ToBackend, 1<<20)
		}
	})
}

func TestDaytimeTellsTheTimeAndCloses(t *testing.T) {
	run(t, "daytime", func(r *rig) {
		c := r.client()
		c.Write([]byte("is thrown away"))
		got, err := io.ReadAll(c)
		if want := "Sat, 01 Jan 2000 00:00:00 UTC\r\n"; err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		c.Close()
		r.wantEnd(services.Finished, "us", services.Clean)
	})
}

func TestHealthAnswersWhoeverAsksInHTTP(t *testing.T) {
	run(t, "health", func(r *rig) {
		for _, want := range []struct {
			status int
			body   string
		}{{http.StatusOK, "serving\n"}, {http.StatusServiceUnavailable, "draining\n"}, {http.StatusOK, "serving\n"}} {
			r.serving.Store(want.status == http.StatusOK)
			c := r.client()
			time.Sleep(time.Second)
			if _, err := c.TryRead(make([]byte, 1)); err != services.ErrWouldBlock {
				t.Errorf("before it was asked: %v", err)
			}
			io.WriteString(c, "GET /hea")
			time.Sleep(time.Second)
			io.WriteString(c, "lthz HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != want.status || string(body) != want.body || !res.Close {
				t.Errorf("got %s %q, %v; want %d %q", res.Status, body, err, want.status, want.body)
			}
			c.Close()
			r.wantEnd(services.Finished, "us", services.Clean)
		}
	})
}

func TestAClientThatNeverClosesIsResetAfterFinWait2(t *testing.T) {
	run(t, "daytime", func(r *rig) {
		c := r.client()
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(config.DefaultPolicy().FinWait2 - time.Second)
		if got := c.State(); got != "CLOSE-WAIT" {
			t.Errorf("just before the limit the client is in %s, want CLOSE-WAIT", got)
		}
		time.Sleep(2 * time.Second)
		r.wantEnd(services.FinWait2Timeout, "us", services.Reset)
	})
}

func TestChargenSendsTheRotatingPatternWithBackpressure(t *testing.T) {
	run(t, "chargen", func(r *rig) {
		c := r.client()
		time.Sleep(time.Minute)
		if got := r.diag.Counters().ToClient; got > 10_000 {
			t.Errorf("it sent %d bytes to a client that reads nothing, want two buffers", got)
		}
		lines := make([]byte, 74*300)
		if _, err := io.ReadFull(c, lines); err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			line := lines[i*74 : (i+1)*74]
			if line[0] != byte(' '+i%95) || line[71] != byte(' '+(i+71)%95) || string(line[72:]) != "\r\n" {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		c.CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("reading to the end: %v", err)
		}
		c.Close()
		r.wantEnd(services.Finished, "client", services.Clean)
	})
}

func TestDrainEndsEachKindInOrder(t *testing.T) {
	for _, kind := range []string{"echo", "discard", "daytime", "chargen"} {
		t.Run(kind, func(t *testing.T) {
			run(t, kind, func(r *rig) {
				for range 3 {
					c := r.client()
					go func() {
						io.Copy(io.Discard, c)
						c.Close()
					}()
				}
				r.client() // reads nothing and never closes
				time.Sleep(time.Second)
				report := r.diag.Drain(r.Context(), config.DefaultDrain())
				clean := 3
				if kind == "daytime" {
					clean = 0 // those that close have done so already
				}
				if report.Clean != clean || report.Reset != 1 || report.Unacked != 0 {
					t.Errorf("%d clean, %d reset, %d unacked; want %d, 1, 0: %+v", report.Clean, report.Reset, report.Unacked, clean, report.Rest)
				}
				if want := config.DefaultDrain().FinGrace; report.Took < want || report.Took > want+100*time.Millisecond {
					t.Errorf("it took %v, want the grace of %v", report.Took, want)
				}
			})
		})
	}
}

func TestDrainLetsABusyEchoFinish(t *testing.T) {
	run(t, "echo", func(r *rig) {
		c := r.client()
		done := make(chan services.Report, 1)
		go func() { done <- r.diag.Drain(r.Context(), config.DefaultDrain()) }()
		for range 20 {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("the echo ended while it was used: %v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read %v, want EOF once it is quiet", err)
		}
		c.Close()
		if report := <-done; report.Clean != 1 {
			t.Errorf("report is %+v, want one clean", report)
		}
	})
}

func TestAPanicIsContained(t *testing.T) {
	run(t, "echo", func(r *rig) {
		bad, good := r.client(), r.client()
		time.Sleep(time.Second)
		bad.Peer().Crash("fault")
		r.wantEnd(services.InternalError, "us", services.Reset)
		good.Write([]byte("x"))
		if _, err := io.ReadFull(good, make([]byte, 1)); err != nil {
			t.Errorf("the other connection: %v", err)
		}
	})
}
