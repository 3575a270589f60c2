package flow_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// Who has sent faster than the clock of initial sequence numbers runs is ahead of it: a
// new connection on the same ports must not begin in what the old one has used.
func TestTimeWaitIsNotReopenedInItsOwnNumbers(t *testing.T) {
	c := newCrowd(10)
	c.show(1, true, flagSYN, 1000, 0)
	c.show(1, false, flagSYN|flagACK, 5000, 1001)
	c.show(1, true, flagACK, 1001, 5001)
	for sent := uint32(5001); sent < 20_005_001; sent += 40_000 { // 20 MB at once: 1.28 s of the clock
		c.show(1, false, flagACK, sent+40_000-1, 1001) // a keepalive of what is to come stands for the data
		c.show(1, true, flagACK, 1001, sent+40_000)
	}
	c.show(1, false, flagFIN|flagACK, 20_005_001, 1001)
	c.show(1, true, flagFIN|flagACK, 1001, 20_005_002)
	c.show(1, false, flagACK, 20_005_002, 1002)
	if n := c.table.States()["TIME-WAIT"]; n != 1 {
		t.Fatalf("there is no TIME-WAIT: %v", c.table.States())
	}
	c.clock.Advance(time.Second)
	if got := c.show(1, true, flagSYN, 500_000, 0); got != frame.Reply {
		t.Errorf("after a second a newer SYN gets verdict %d, want an ACK: the stack would begin in the old numbers", got)
	}
	c.clock.Advance(time.Second)
	if got := c.show(1, true, flagSYN, 500_000, 0); got != frame.Pass {
		t.Errorf("after two seconds a newer SYN gets verdict %d, want a new connection", got)
	}
}

// The same of a direct connection, whose numbers the table chooses.
func TestADirectConnectionDoesNotBeginInOldNumbers(t *testing.T) {
	for name, stamped := range map[string]bool{"plain": false, "stamped": true} {
		t.Run(name, func(t *testing.T) {
			k := newTalk(t, tcpinfo.Direct, stamped, nil)
			c, b := k.client, k.backend
			k.exchange(1, 1)
			b.say(lab.FIN|lab.ACK, 6, 6, "")
			c.hearAt("a FIN", lab.FIN|lab.ACK, 6, 6)
			c.say(lab.FIN|lab.ACK, 6, 7, "")
			b.hearAt("a FIN", lab.FIN|lab.ACK, 6, 7)
			b.say(lab.ACK, 7, 7, "")
			c.hearAt("an ACK", lab.ACK, 7, 7)
			last := c.irs + 7 // of the old numbers; the clock stands still
			c.iss, c.val = c.iss+1000, c.val+1000
			syn := k.opens()
			b.say(lab.SYN|lab.ACK, 0, 1, "")
			if first := c.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq; int32(first-last) < 0 {
				t.Errorf("the new connection begins with %d, the old one has used all before %d (SYN from %s)", first, last, syn.Src)
			}
		})
	}
}
