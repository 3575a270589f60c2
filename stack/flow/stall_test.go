package flow

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/journal"
)

// threadTime is the CPU time of this thread: what other threads and a busy
// host take is not in it.
func threadTime(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// A frame waits for its shard's lock for as long as one batch of the wheel holds
// it, or an insertion that makes the index grow: the longest of each, in CPU
// time, with a million flows that are over at once.
func BenchmarkTheLongestALockIsHeld(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		insertion, batches := longestLocks(b, 1_000_000)
		b.ReportMetric(float64(insertion.Nanoseconds())/1e3, "insert-µs")
		b.ReportMetric(float64(batches.Nanoseconds())/1e3, "batch-µs")
	}
}

func longestLocks(b *testing.B, n int) (insertion, batches time.Duration) {
	clock := faketime.NewManualClock()
	table := New(Options{Policies: map[string]config.Policy{"default": config.DefaultPolicy()}, Clock: clock})
	longest := func(worst *time.Duration, do func()) {
		begin := threadTime(b)
		do()
		*worst = max(*worst, threadTime(b)-begin)
	}
	now := table.now()
	for i := range n {
		var k key
		binary.BigEndian.PutUint32(k.remote[12:], uint32(i))
		sh, h := table.shard(&k)
		longest(&insertion, func() {
			f, slot := table.create(sh, &k, h, now)
			f.enter(TimeWait, now)
			table.recount(sh, f, slot)
			table.rearm(sh, f, slot, now)
		})
	}
	clock.Advance(61 * time.Second)
	later := table.now()
	for i := range table.shards {
		sh := &table.shards[i]
		for sh.timed > 0 {
			longest(&batches, func() {
				sh.turn(later.ms, batch, func(f *Flow, slot uint32) { table.expire(sh, f, slot, later, new(elapsed)) })
			})
		}
	}
	if table.Len() != 0 {
		b.Fatalf("%d flows are left", table.Len())
	}
	return insertion, batches
}

// A journal of a million connections: how long it takes in all to see whether it
// has changed, and to go through it, in CPU time; and the longest that a frame
// may wait for the lock of its shard meanwhile.
func BenchmarkTheJournalOfAMillionConnections(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	table := New(Options{Policies: map[string]config.Policy{"default": config.DefaultPolicy()}})
	table.Card()
	now := table.now()
	for i := range uint32(1_000_000) {
		var k key
		binary.BigEndian.PutUint32(k.remote[12:], i)
		sh, h := table.shard(&k)
		f, _ := table.create(sh, &k, h, now)
		f.enter(Established, now)
	}
	for b.Loop() {
		begin := threadTime(b)
		sets := table.Sets()
		middle := threadTime(b)
		n := 0
		table.Journal(0, func(*journal.Conn) { n++ })
		end := threadTime(b)
		if n != 1_000_000 || sets[0].N != n {
			b.Fatalf("the journal has %d connections, its set %d", n, sets[0].N)
		}
		b.ReportMetric(float64((middle-begin).Microseconds())/1e3, "sets-ms")
		b.ReportMetric(float64((end-middle).Microseconds())/1e3, "journal-ms")
		var longest time.Duration
		var some [chunkSize]memo
		for i := range table.shards {
			for at, more := 0, true; more; at++ {
				begin := threadTime(b)
				_, more = table.shards[i].memos(at, now, &some)
				longest = max(longest, threadTime(b)-begin)
			}
		}
		b.ReportMetric(float64(longest.Nanoseconds())/1e3, "lock-µs")
	}
}
