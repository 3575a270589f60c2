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
