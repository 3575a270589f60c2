package flow_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// closing is a relayed connection whose FIN the stack has sent, and the FINs that
// the table sends by itself, in seconds after that.
type closing struct {
	*crowd
	t     *testing.T
	since time.Duration
	fins  []int
}

func newClosing(t *testing.T) *closing {
	c := &closing{crowd: newCrowd(10), t: t}
	c.card.Own([6]byte{2, 1})
	c.card.Start(func(_ frame.Header, _, p []byte) {
		if p[33] != flagFIN|flagACK || binary.BigEndian.Uint32(p[24:]) != 5001 || binary.BigEndian.Uint32(p[28:]) != 1001 {
			t.Errorf("sent is % x", p)
		}
		c.fins = append(c.fins, int(c.since.Seconds()))
	})
	c.table.Start(func(flow.Limit) bool { return false })
	t.Cleanup(c.table.Close)
	c.show(1, true, flagSYN, 1000, 0)
	c.show(1, false, flagSYN|flagACK, 5000, 1001)
	c.show(1, true, flagACK, 1001, 5001)
	return c
}

// pass lets time pass; the stack sends its FIN again at the moments given.
func (c *closing) pass(d time.Duration, again ...time.Duration) {
	for end := c.since + d; c.since < end; {
		if len(again) > 0 && c.since >= again[0] {
			c.show(1, false, flagFIN|flagACK, 5001, 1001)
			again = again[1:]
		}
		c.clock.Advance(100 * time.Millisecond)
		c.since += 100 * time.Millisecond
	}
}

func (c *closing) want(fins ...int) {
	c.t.Helper()
	if len(fins) != len(c.fins) {
		c.t.Fatalf("the table has sent FINs after %v s, want %v", c.fins, fins)
	}
	for i, at := range fins {
		if c.fins[i] != at {
			c.t.Errorf("the table has sent FINs after %v s, want %v", c.fins, fins)
		}
	}
}

func TestAFINThatTheStackForgetsIsSentAgain(t *testing.T) {
	c := newClosing(t)
	c.show(1, false, flagFIN|flagACK, 5001, 1001)
	c.pass(30 * time.Second)
	c.want(4, 12, 28)
	c.show(1, true, flagACK, 1001, 5002)
	c.pass(30 * time.Second)
	c.want(4, 12, 28)
}

func TestAFINThatTheStackRepeatsIsItsOwn(t *testing.T) {
	c := newClosing(t)
	c.show(1, false, flagFIN|flagACK, 5001, 1001)
	// The slowest that begins within finPatience: after three seconds, and twice as long each time.
	c.pass(40*time.Second, 3*time.Second, 9*time.Second, 21*time.Second)
	c.want()
}

func TestAFINBehindWhatIsMissingIsNotSentAgain(t *testing.T) {
	c := newClosing(t)
	c.show(1, false, flagACK, 4999, 1001) // a keepalive probe, which is nothing new
	c.show(1, false, flagFIN|flagACK, 5101, 1001)
	c.pass(10 * time.Second)
	c.want()
}
