package flow

import (
	"runtime"
	"time"
)

// yieldAfter is how long work on many flows keeps the thread at most: with one Go
// thread a frame waits for it. Who gives it away may have to wait ten milliseconds,
// the Go scheduler's slice, until those who are busy give it back: it must not be done for each few flows.
const yieldAfter = 500 * time.Microsecond

// yielder gives the thread to others now and then. The zero value works.
type yielder struct{ since time.Time }

// pause is called often, with no lock held.
func (y *yielder) pause() {
	now := time.Now()
	if y.since.IsZero() {
		y.since = now
	}
	if now.Sub(y.since) < yieldAfter {
		return
	}
	runtime.Gosched()
	y.since = time.Now()
}
