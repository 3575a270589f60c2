package flow_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// owing is a relayed connection of which the table tells the stack, when it does, that
// something is unacknowledged: in tenths of a second since the handshake.
type owing struct {
	*crowd
	t     *testing.T
	since time.Duration
	told  []int
}

func newOwing(t *testing.T) *owing {
	o := &owing{crowd: newCrowd(10), t: t}
	o.table.Start(nil, func(local, remote netip.AddrPort) bool {
		o.told = append(o.told, int(o.since/(100*time.Millisecond)))
		return len(o.told) == 1
	})
	t.Cleanup(o.table.Close)
	o.show(1, true, flagSYN, 1000, 0)
	o.show(1, false, flagSYN|flagACK, 5000, 1001)
	o.show(1, true, flagACK, 1001, 5001)
	o.table.Adopt(netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("10.0.0.0:10001"), 1, "default", true)
	return o
}

func (o *owing) pass(d time.Duration) {
	for end := o.since + d; o.since < end; {
		o.since += 100 * time.Millisecond
		o.clock.Advance(100 * time.Millisecond)
	}
}

// want wants the stack to have been told at those times, each up to 0.2 s late.
func (o *owing) want(at ...int) {
	o.t.Helper()
	if !slices.EqualFunc(o.told, at, func(got, want int) bool { return got >= want && got <= want+2 }) {
		o.t.Errorf("the stack was told after %v tenths of a second, want %v", o.told, at)
	}
}

func TestWhatIsUnacknowledgedIsToldOfEverLessOften(t *testing.T) {
	for name, flags := range map[string]uint8{"FIN": flagFIN | flagACK, "data": flagACK} {
		t.Run(name, func(t *testing.T) {
			o := newOwing(t)
			o.pass(time.Hour)
			o.want()
			o.told, o.since = nil, 0
			if flags == flagACK {
				o.size = 1
			}
			o.show(1, false, flags, 5001, 1001)
			o.pass(13 * time.Second)
			o.want(10, 21, 33, 51, 78, 118)
			if got := o.table.Count.Stalls.Load(); got != 1 {
				t.Errorf("%d stalls are counted, want the one that was", got)
			}
			o.show(1, true, flagACK, 1001, 5002)
			o.told = nil
			o.pass(time.Hour)
			o.want()
		})
	}
}

// A connection on which all is acknowledged in time is told of to nobody.
func TestWhatIsAcknowledgedInTimeIsNotToldOf(t *testing.T) {
	o := newOwing(t)
	o.size = 1
	for i := range uint32(100) {
		o.show(1, false, flagACK, 5001+i, 1001)
		o.pass(700 * time.Millisecond)
		o.show(1, true, flagACK, 1001, 5002+i)
		o.pass(100 * time.Millisecond)
	}
	o.want()
}

// A byte that is relayed, and its acknowledgement: what the table takes for both.
func BenchmarkRelayedExchange(b *testing.B) {
	c := newCrowd(10)
	c.table.Start(nil, nil)
	defer c.table.Close()
	c.show(1, true, flagSYN, 1000, 0)
	c.show(1, false, flagSYN|flagACK, 5000, 1001)
	c.show(1, true, flagACK, 1001, 5001)
	c.size = 1
	seq := uint32(5001)
	for b.Loop() {
		c.show(1, false, flagACK, seq, 1001)
		seq++
		c.show(1, true, flagACK, 1001, seq)
	}
}
