package flow

import (
	"testing"
	"time"

	"github.com/lastack/lastack/config"
)

func TestRepetitionsTakeAsLongAsTheirTimeouts(t *testing.T) {
	for _, c := range []struct {
		r    config.Retransmit
		want time.Duration
	}{
		{config.DefaultPolicy().Retransmit, 102200 * time.Millisecond}, // 0.2 s doubled eight times
		{config.Retransmit{MinRTO: 200 * time.Millisecond, MaxRTO: time.Minute, MaxRetries: 3}, 3 * time.Second},
		{config.Retransmit{MinRTO: time.Second, MaxRTO: 4 * time.Second, MaxRetries: 6}, 23 * time.Second},
		{config.Retransmit{MinRTO: time.Millisecond, MaxRTO: time.Minute, MaxRetries: 1}, 600 * time.Millisecond},
		{config.Retransmit{}, 0},
	} {
		if got := repetitions(c.r); got != c.want {
			t.Errorf("%+v: %v, want %v", c.r, got, c.want)
		}
	}
}
