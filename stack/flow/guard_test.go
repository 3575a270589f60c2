package flow

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// RFC 7323, 5.5: the clock of timestamps may have gone round while a connection
// was idle for 24 days: what is remembered of it judges nothing any more.
func TestAfter24DaysAnOldTimestampIsNoReason(t *testing.T) {
	clock := faketime.NewManualClock()
	table := New(Options{Clock: clock})
	f := &Flow{state: Established, flags: timestamps | synsSeen, iss: 1, sndUna: 2, sndNxt: 2, rcvNxt: 2, tsRecent: 5000, tsRecentAt: table.now().ms}
	old := &segment{flags: ack, seq: 2, ack: 2, ts: true, tsVal: 4000}
	for _, c := range []struct {
		pass time.Duration
		want ruling
	}{{time.Second, answered}, {23 * 24 * time.Hour, answered}, {25 * time.Hour, allowed}} {
		clock.Advance(c.pass)
		if got := table.guard(f, old, table.now()); got != c.want {
			t.Errorf("after %v an old timestamp is ruled %d, want %d", clock.NowMonotonic(), got, c.want)
		}
	}
}
