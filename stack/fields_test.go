package stack_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// The timers of gVisor's are read where it keeps them: each at its time, and
// none that does not run.
func TestTheTimersThatRunAreTold(t *testing.T) {
	t.Parallel()
	w := newTwins(t, quick("default", func(p *config.Policy) { p.Retransmit.LossDetection = "sack" }))
	c, _ := w.dialled(t, "default")
	only := func(name tcpinfo.Rule, left time.Duration, try int) {
		t.Helper()
		timers := c.Info().Timers
		if len(timers) != 1 || timers[0].Name != name || (timers[0].Left-left).Abs() > 200*time.Millisecond || timers[0].Try != try {
			t.Errorf("%+v run, want %s in %v, unanswered %d", timers, name, left, try)
		}
	}
	only(tcpinfo.Keepalive, time.Minute, 0)
	w.clock.Advance(20 * time.Second)
	only(tcpinfo.Keepalive, 40*time.Second, 0)
	w.cut.Store(true)
	w.clock.Advance(43 * time.Second) // the first probe was at 60 s
	only(tcpinfo.Keepalive, 2*time.Second, 1)
	w.cut.Store(false)
	w.clock.Advance(3 * time.Second) // the second is answered
	within(t, 5*time.Second, "the answer", func() bool {
		timers := c.Info().Timers
		return len(timers) == 1 && timers[0].Try == 0
	})
	w.cut.Store(true)
	write(t, c, "lost")
	only(tcpinfo.Retransmit, time.Second, 0)
	if got := c.Info().Unacked; got != 4 {
		t.Errorf("%d bytes are unacknowledged, want 4", got)
	}
	w.clock.Advance(1100 * time.Millisecond)
	only(tcpinfo.Retransmit, 1900*time.Millisecond, 0)
	if got := c.Info(); got.Backoff != 1 || got.CaState != "loss" {
		t.Errorf("backoff %d and state %s, want 1 and loss", got.Backoff, got.CaState)
	}
}
