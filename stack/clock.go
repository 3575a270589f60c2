package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Clock is the real time, which can be made to stand still for the timers:
// what gVisor keeps of a connection can be written only while nothing changes
// it. It may begin where the clock of the process before has stopped, because
// connections that are taken over hold times of that one.
type Clock struct {
	tcpip.Clock
	offset time.Duration
	rest   sync.RWMutex // read-locked by each timer that runs
}

// NewClock makes a clock whose monotonic time begins at a time since an
// unknown beginning.
func NewClock(at time.Duration) *Clock {
	std := tcpip.NewStdClock()
	return &Clock{Clock: std, offset: at - std.NowMonotonic().Sub(tcpip.MonotonicTime{})}
}

// NowMonotonic implements tcpip.Clock.
func (c *Clock) NowMonotonic() tcpip.MonotonicTime { return c.Clock.NowMonotonic().Add(c.offset) }

// Since is the monotonic time, for the NewClock of the next process.
func (c *Clock) Since() time.Duration { return c.NowMonotonic().Sub(tcpip.MonotonicTime{}) }

// AfterFunc implements tcpip.Clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		c.rest.RLock()
		defer c.rest.RUnlock()
		f()
	})
}

// stop waits for the timers that run, and makes those that are due wait for start.
func (c *Clock) stop() { c.rest.Lock() }

func (c *Clock) start() { c.rest.Unlock() }
