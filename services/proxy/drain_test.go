package proxy_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

func wantReport(t *testing.T, r services.Report, clean, reset, unacked int, took, slack time.Duration) {
	t.Helper()
	if r.Clean != clean || r.Reset != reset || r.Unacked != unacked || len(r.Rest) != reset+unacked {
		t.Errorf("%d clean, %d reset, %d unacked, %d listed; want %d, %d, %d: %+v",
			r.Clean, r.Reset, r.Unacked, len(r.Rest), clean, reset, unacked, r.Rest)
	}
	if r.Took < took || r.Took > took+slack {
		t.Errorf("it took %v, want %v to %v", r.Took, took, took+slack)
	}
}

// answerFIN closes p once its peer has.
func answerFIN(r *rig, p *servicestest.Peer) {
	go func() {
		buf := make([]byte, 1000)
		for {
			if _, err := p.Read(buf); err != nil {
				p.Close()
				return
			}
		}
	}()
}

func TestDrainClosesIdleConnectionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		for range 10 {
			c, b := r.pair(h)
			answerFIN(r, c)
			answerFIN(r, b)
		}
		time.Sleep(time.Second)
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		wantReport(t, report, 10, 0, 0, 0, 30*time.Millisecond)
		r.wantEnd(services.Drained, "us", services.ByFIN, services.Clean)
		if r.proxy.Phase() != services.Closed {
			t.Errorf("phase is %s, want closed", r.proxy.Phase())
		}
	})
}

func TestDrainRefusesNewConnectionsAndFinishesThoseThatArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Delay = 50 * time.Millisecond
		h := r.backend(back1)
		r.start()
		defer r.stop()
		got := make(chan string, 1)
		go func() { // its SYN has arrived, its last ACK hasn't when the drain begins
			c := r.client()
			r.say(c, "hello")
			c.CloseWrite()
			r.hear(c, "world")
			r.hearEnd(c)
			c.Close()
			got <- "served"
		}()
		time.Sleep(120 * time.Millisecond)
		done := r.background(t.Context(), config.DefaultDrain())
		synctest.Wait()
		if _, err := r.net.Client(front); err == nil {
			t.Error("a new connection was accepted, want it refused")
		}
		b, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.hear(b, "hello")
		r.say(b, "world")
		r.hearEnd(b)
		b.Close()
		if s := <-got; s != "served" {
			t.Error(s)
		}
		wantReport(t, <-done, 1, 0, 0, 250*time.Millisecond, time.Second)
	})
}

func TestDrainWaitsUntilABusyConnectionIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
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
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		wantReport(t, report, 1, 0, 0, 2100*time.Millisecond, 60*time.Millisecond)
		if e := r.wantEnd(services.Drained, "us", services.ByFIN, services.Clean); e.ToClient != 40 {
			t.Errorf("%d bytes arrived, want all 40", e.ToClient)
		}
	})
}

func TestDrainWaitsForTheAnswerToAFinishedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		r.say(c, "question")
		c.CloseWrite()
		done := r.background(t.Context(), config.DefaultDrain())
		r.hear(b, "question")
		time.Sleep(10 * time.Second)
		r.say(b, "answer")
		b.Close()
		r.hear(c, "answer")
		r.hearEnd(c)
		c.Close()
		wantReport(t, <-done, 1, 0, 0, 10*time.Second, 50*time.Millisecond)
	})
}

func TestDrainEndsAtTheDeadlineWithFINAndThenReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		talk := func(b *servicestest.Peer) {
			for {
				if _, err := b.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		c, b := r.pair(h)
		answerFIN(r, c)
		answerFIN(r, b)
		go talk(b.Split())
		stubborn, sb := r.pair(h) // reads, but never closes
		go talk(sb.Split())
		go func() {
			buf := make([]byte, 100)
			for {
				if _, err := stubborn.Read(buf); err != nil {
					return
				}
			}
		}()
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		wantReport(t, report, 1, 1, 0, 35*time.Second, 50*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Reset)
		time.Sleep(time.Second)
	})
}

func TestDrainCountsAResetInAnswerToItsFINAsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, b)
		go func() {
			r.hearEnd(c)
			time.Sleep(10 * time.Millisecond) // the backend has acknowledged its FIN: else that one is reset by us
			c.Abort()
		}()
		time.Sleep(time.Second)
		wantReport(t, r.proxy.Drain(t.Context(), config.DefaultDrain()), 1, 0, 0, 0, 300*time.Millisecond)
	})
}

func TestDrainReportsAFINThatIsNeverAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		c.CloseWrite()
		r.hearEnd(b)
		c.Vanish()
		b.Close()
		time.Sleep(100 * time.Millisecond)
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		wantReport(t, report, 0, 0, 1, 5*time.Second, 50*time.Millisecond)
		if len(report.Rest) == 1 && report.Rest[0].ClientAddr != c.LocalAddr() {
			t.Errorf("listed is %v, want %v", report.Rest[0].ClientAddr, c.LocalAddr())
		}
	})
}

func TestASlowReaderGetsWhatWasReadBeforeTheFIN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Buffer = 1000
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, b)
		sender := b.Split()
		go func() { sender.Write(make([]byte, 100_000)) }() // fails when the proxy has closed
		time.Sleep(time.Second)
		drain := config.DefaultDrain()
		drain.Deadline = time.Second
		done := r.background(t.Context(), drain)
		time.Sleep(2 * time.Second) // the deadline passes with bytes held
		held := r.proxy.Conns()
		buf, total := make([]byte, 100), 0
		for {
			n, err := c.Read(buf)
			total += n
			if err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		c.Close()
		report := <-done
		if report.Clean+report.Reset != 1 || report.Unacked != 0 {
			t.Errorf("report is %+v, want one connection", report)
		}
		if e := r.ended(); int64(total) != e.ToClient || e.Reason != services.DrainDeadline || !e.Client.FinAcked {
			t.Errorf("the client got %d of %d bytes, reason %s, FIN acknowledged %v (%+v)", total, e.ToClient, e.Reason, e.Client.FinAcked, held)
		}
	})
}

func TestCancelingADrainMakesTheDeadlineNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		c.CloseWrite() // so that the drain waits for the answer
		answerFIN(r, c)
		r.hearEnd(b)
		ctx, cancel := context.WithCancel(t.Context())
		done := r.background(ctx, config.DefaultDrain())
		time.Sleep(3 * time.Second)
		cancel()
		synctest.Wait()
		b.Close()
		wantReport(t, <-done, 1, 0, 0, 3*time.Second, 50*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "client", services.ByFIN, services.Clean)
	})
}

func TestStopSendsFINAndResetsWhoDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		answerFIN(r, c)
		answerFIN(r, b)
		_, _ = r.pair(h) // never answers
		v := services.NewSupervisor(r.proxy)
		if err := v.Start(t.Context()); err == nil {
			t.Error("a service was started twice")
		}
		drain := config.DefaultDrain()
		drain.Deadline = 0
		wantReport(t, r.proxy.Drain(t.Context(), drain), 1, 1, 0, 5*time.Second, 50*time.Millisecond)
	})
}

func TestDrainWhileConnectingWaitsForTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Behave(back1, servicestest.Silent)
		r.conf.ConnectTimeout = time.Hour
		r.start()
		defer r.stop()
		c := r.client()
		r.say(c, "hello")
		answerFIN(r, c)
		drain := config.DefaultDrain()
		wantReport(t, r.proxy.Drain(t.Context(), drain), 1, 0, 0, drain.Deadline, 50*time.Millisecond)
		r.wantEnd(services.DrainDeadline, "us", services.ByFIN, services.Clean)
		if open := r.net.Open(); open != 0 {
			t.Errorf("%d connections are open, want 0", open)
		}
	})
}

func TestCloseDuringADrainEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		c.CloseWrite()
		r.hearEnd(b)
		done := r.background(t.Context(), config.DefaultDrain())
		time.Sleep(time.Second)
		r.proxy.Close()
		wantReport(t, <-done, 0, 1, 0, time.Second, 50*time.Millisecond)
		time.Sleep(time.Second)
		r.hearReset(c)
		r.hearReset(b)
	})
}

// A backend that resets us once we have said FIN tells nothing of the client: one
// that has not acknowledged its FIN, and is reset, has not ended well.
func TestABackendsResetInADrainDoesNotSpeakForTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.Delay = 10 * time.Millisecond
		h := r.backend(back1)
		r.start()
		defer r.stop()
		c, b := r.pair(h)
		c.Vanish()
		go func() {
			_, _ = b.Read(make([]byte, 1)) // the FIN
			b.Abort()
		}()
		time.Sleep(time.Second)
		report := r.proxy.Drain(t.Context(), config.DefaultDrain())
		wantReport(t, report, 0, 1, 0, 0, time.Second)
	})
}
