package proxy

import (
	"testing"
	"time"

	"github.com/lastack/lastack/config"
)

// What a policy says of retransmission holds by default: auto relays then.
func TestAutoKeepsToTheRetransmissionOfThePolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*config.Policy)
		own    bool
	}{
		"as usual":        {func(*config.Policy) {}, false},
		"user_timeout":    {func(p *config.Policy) { p.UserTimeout = time.Second }, false},
		"syn_retries":     {func(p *config.Policy) { p.Retransmit.SynRetries = 2 }, false},
		"max_retries":     {func(p *config.Policy) { p.Retransmit.MaxRetries = 3 }, true},
		"another min_rto": {func(p *config.Policy) { p.Retransmit.MinRTO = time.Second }, true},
		"reno":            {func(p *config.Policy) { p.Congestion = "reno" }, true},
		"loss_detection":  {func(p *config.Policy) { p.Retransmit.LossDetection = "sack" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := config.DefaultPolicy()
			c.change(&p)
			if got := ownSender(&p); got != c.own {
				t.Errorf("own sender: %v, want %v", got, c.own)
			}
		})
	}
}
