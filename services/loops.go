package services

import (
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// LoopOptions say how Loops are made; the zero value works.
type LoopOptions struct {
	N       int              // how many; 0 is GOMAXPROCS
	Clock   func() time.Time // nil is time.Now
	Scratch int              // bytes of a loop's read buffer; 0 is 256 KiB
	Log     *slog.Logger     // nil is silent
	Since   time.Duration    // what their time begins at: that of the process before
}

// scratchSize is what a loop reads at once at most: four GSO super-frames, so
// that the short frame at the end of each write is the exception, and little
// enough to stay in a second-level cache.
const scratchSize = 256 << 10

// Loops is a set of Loops, one per core. It is made running; Close stops it.
type Loops struct {
	all   []*Loop
	epoch time.Time
	clock func() time.Time
	close sync.Once
	rest  rest
}

// NewLoops starts the loops.
func NewLoops(o LoopOptions) *Loops {
	if o.N <= 0 {
		o.N = runtime.GOMAXPROCS(0)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Scratch <= 0 {
		o.Scratch = scratchSize
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ls := &Loops{epoch: o.Clock().Add(-o.Since), clock: o.Clock}
	pool := newBuffers()
	for range o.N {
		l := newLoop(o, ls.epoch, pool)
		ls.all = append(ls.all, l)
		go l.serve() // Close waits for it
	}
	return ls
}

// Now is the time all the loops go by: since they were made.
func (ls *Loops) Now() time.Duration { return ls.clock().Sub(ls.epoch) }

// Len is how many loops there are.
func (ls *Loops) Len() int { return len(ls.all) }

// At returns one of them.
func (ls *Loops) At(i int) *Loop { return ls.all[i] }

// Stats adds up what the loops have done.
func (ls *Loops) Stats() LoopStats {
	var sum LoopStats
	for _, l := range ls.all {
		s := l.Stats()
		sum.Runs += s.Runs
		sum.Sleeps += s.Sleeps
		sum.Panics += s.Panics
	}
	return sum
}

// Close stops the loops after the tasks they are running, and waits for them.
// What is woken later never runs: close the Services first.
func (ls *Loops) Close() {
	ls.close.Do(func() {
		for _, l := range ls.all {
			l.closing.Store(true)
		}
		ls.Resume()
		for _, l := range ls.all {
			l.close()
		}
	})
}
