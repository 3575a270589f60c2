package stack_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/config/predict"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// What `policy show` predicts, gVisor does: within a tenth, for each rule, and
// for two policies in one stack at once.
func TestAPeerIsGivenUpWhenItWasPredicted(t *testing.T) {
	t.Parallel()
	off := config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
	quickly := quick("default", func(p *config.Policy) {
		p.Keepalive, p.UserTimeout = off, config.Off
		p.Retransmit = config.Retransmit{MinRTO: 100 * time.Millisecond, MaxRTO: 2 * time.Second, MaxRetries: 4, SynRetries: 2, LossDetection: "sack"}
	})
	patiently := quick("patient", func(p *config.Policy) {
		p.Keepalive, p.UserTimeout = off, config.Off
		p.Retransmit.MaxRetries = 12
	})
	bounded := quick("bounded", func(p *config.Policy) { p.Keepalive, p.UserTimeout = off, 20*time.Second })
	w := newTwins(t, quickly, patiently, bounded)
	for i, p := range []config.Policy{quickly, patiently, bounded} {
		c, _ := w.dialledAt(t, uint16(80+i), p.Name)
		want := predict.Data(p, 0)
		w.cut.Store(true)
		write(t, c, "lost")
		passed := time.Duration(0)
		for step := want.GiveUp / 100; c.Established() == nil && passed < 3*want.GiveUp; passed += step {
			w.clock.Advance(step)
		}
		if off := passed - want.GiveUp; off.Abs() > want.GiveUp/10 {
			t.Errorf("%s: given up after %v, predicted %v", p.Name, passed, want.GiveUp)
		}
		var rule tcpinfo.Ruled
		if err := c.Established(); !errors.As(err, &rule) || rule.Rule() != want.Rule {
			t.Errorf("%s: given up because of %v, predicted %s", p.Name, err, want.Rule)
		}
		w.cut.Store(false)
	}
}

// The same once in real time, on a wire that is cut. A machine that is busy for
// a moment is given another try.
func TestAPeerIsGivenUpWhenItWasPredictedInRealTimeToo(t *testing.T) {
	t.Parallel()
	p := unwatched("quick")
	p.Retransmit = config.Retransmit{MinRTO: 100 * time.Millisecond, MaxRTO: 400 * time.Millisecond, MaxRetries: 6, SynRetries: 2, LossDetection: "sack"}
	for try := 1; ; try++ {
		took, predicted := givenUp(t, p)
		if (took - predicted).Abs() <= predicted/10 {
			return
		}
		t.Logf("given up after %v, predicted %v", took, predicted)
		if try == 4 {
			t.Fatal("that is more than a tenth, each time")
		}
	}
}

// givenUp cuts the wire under a connection with data to send, and tells how long
// that took to end it and what was predicted.
func givenUp(t *testing.T, p config.Policy) (took, predicted time.Duration) {
	t.Helper()
	r := newRig(t, want{line: true, policies: []config.Policy{p}})
	c, client := r.accepted(t, r.listen(t, box4, 80, p.Name))
	write(t, c, "measure")
	hear(t, client, 7)
	within(t, 10*time.Second, "an RTT", func() bool { return c.Info().RTT > 0 && c.Info().Unacked == 0 })
	want := predict.Data(p, c.Info().RTT)
	r.line.Cut()
	begin := time.Now()
	write(t, c, "lost")
	within(t, 10*time.Second, "the end", func() bool { return c.Established() != nil })
	took = time.Since(begin)
	var rule tcpinfo.Ruled
	if err := c.Established(); !errors.As(err, &rule) || rule.Rule() != want.Rule {
		t.Errorf("given up because of %v, predicted %s", err, want.Rule)
	}
	return took, want.GiveUp
}

// Two policies in one stack, each with its TIME-WAIT.
func TestTwoPoliciesHaveEachItsTimeWait(t *testing.T) {
	t.Parallel()
	short := quick("short", func(p *config.Policy) { p.TimeWait.Duration = 2 * time.Second })
	long := quick("long", func(p *config.Policy) { p.TimeWait.Duration = 20 * time.Second })
	w := newTwins(t, short, long)
	for i, p := range []config.Policy{short, long} {
		ours, theirs := w.dialledAt(t, uint16(80+i), p.Name)
		closeWrite(t, ours)
		if err := ending(t, theirs); err == nil {
			t.Fatal("no end")
		}
		closeWrite(t, theirs)
		within(t, 5*time.Second, "TIME-WAIT", isState(ours, "TIME-WAIT"))
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		passes time.Duration
		left   int
	}{{1500 * time.Millisecond, 2}, {time.Second, 1}, {17 * time.Second, 1}, {time.Second, 0}} {
		w.clock.Advance(step.passes)
		if got := w.flows.Held(); got != step.left {
			t.Errorf("after %v more, %d are in TIME-WAIT, want %d", step.passes, got, step.left)
		}
	}
}
