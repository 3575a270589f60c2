package predict_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/config/predict"
	"github.com/lastack/lastack/internal/tcpinfo"
)

func seconds(list ...float64) []time.Duration {
	var all []time.Duration
	for _, s := range list {
		all = append(all, time.Duration(s*float64(time.Second)))
	}
	return all
}

func policy(detection string, userTimeout time.Duration, retries int) config.Policy {
	p := config.DefaultPolicy()
	p.Retransmit.LossDetection, p.UserTimeout, p.Retransmit.MaxRetries = detection, userTimeout, retries
	return p
}

func TestASegmentIsRepeatedWithTwiceTheTimeoutUntilItIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		p       config.Policy
		rtt     time.Duration
		repeats []time.Duration
		giveUp  time.Duration
		rule    tcpinfo.Rule
	}{
		"by retries, with SACK": {policy("sack", config.Off, 8), 0, seconds(1, 3, 7, 15, 31, 63, 123, 183), 243 * time.Second, tcpinfo.MaxRetries},
		"by retries, with RACK": {policy("rack", config.Off, 8), 0, seconds(1, 2, 4, 8, 16, 32, 64, 124), 184 * time.Second, tcpinfo.MaxRetries},
		"by user_timeout":       {policy("sack", 5*time.Second, 8), 0, seconds(1, 3), 5 * time.Second, tcpinfo.UserTimeout},
		"a near peer":           {policy("sack", config.Off, 3), time.Millisecond, seconds(.2, .6, 1.4), 3 * time.Second, tcpinfo.MaxRetries},
		"shorter than the RTO":  {policy("sack", 300*time.Millisecond, 8), 0, nil, time.Second, tcpinfo.UserTimeout},
	} {
		got := predict.Data(c.p, c.rtt)
		if !slices.Equal(got.Repeats, c.repeats) || got.GiveUp != c.giveUp || got.Rule != c.rule {
			t.Errorf("%s: got %+v, want %v, %v by %s", name, got, c.repeats, c.giveUp, c.rule)
		}
	}
}

func TestHandshakesAndProbes(t *testing.T) {
	p := config.DefaultPolicy()
	if got := predict.Handshake(p); !slices.Equal(got.Repeats, seconds(1, 3, 7, 15)) || got.GiveUp != 31*time.Second {
		t.Errorf("a SYN: got %+v", got)
	}
	if got := predict.Idle(p); !slices.Equal(got.Repeats, seconds(60, 65, 70)) || got.GiveUp != 75*time.Second {
		t.Errorf("an idle peer: got %+v", got)
	}
	p.Keepalive.Idle = config.Off
	if got := predict.Idle(p); got.GiveUp >= 0 || got.Rule != "" {
		t.Errorf("without keepalive: got %+v", got)
	}
}
