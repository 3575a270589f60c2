package services_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/services"
)

// job is a Task that does what its function says.
type job struct {
	services.Task
	do       func(now time.Duration, r services.Ready)
	panicked atomic.Int32
}

func (j *job) Run(now time.Duration, r services.Ready) { j.do(now, r) }
func (j *job) Panicked(time.Duration)                  { j.panicked.Add(1) }

func newJob(l *services.Loop, do func(time.Duration, services.Ready)) *job {
	j := &job{do: do}
	j.Init(l, j)
	return j
}

func TestEveryWakeIsFollowedByARun(t *testing.T) {
	ls := services.NewLoops(services.LoopOptions{N: 2})
	defer ls.Close()
	const wakers, rounds = 8, 2000
	var wanted, seen [wakers]atomic.Int64
	caughtUp := make(chan struct{}, 1)
	jobs := make([]*job, wakers)
	for i := range jobs {
		jobs[i] = newJob(ls.At(i%2), func(time.Duration, services.Ready) {
			seen[i].Store(wanted[i].Load())
			select {
			case caughtUp <- struct{}{}:
			default:
			}
		})
	}
	var all sync.WaitGroup
	for i := range jobs {
		all.Go(func() {
			for n := range rounds {
				wanted[i].Store(int64(n + 1))
				jobs[i].Wake(services.ReadyClient)
			}
		})
	}
	all.Wait()
	deadline := time.After(10 * time.Second)
	for i := range jobs {
		for seen[i].Load() != rounds {
			select {
			case <-caughtUp:
			case <-deadline:
				t.Fatalf("task %d saw %d, want %d: a wake was lost", i, seen[i].Load(), rounds)
			}
		}
	}
}

func TestTasksRunInTheOrderOfTheirWakesWithAllTheirReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := services.NewLoops(services.LoopOptions{N: 1})
		defer ls.Close()
		var order []int
		var reasons services.Ready
		var first [3]*job
		for i := range first {
			first[i] = newJob(ls.At(0), func(_ time.Duration, r services.Ready) { order = append(order, i); reasons |= r })
		}
		newJob(ls.At(0), func(time.Duration, services.Ready) {
			first[2].Wake(services.ReadyClient)
			first[0].Wake(services.ReadyClient)
			first[1].Wake(services.ReadyClient)
			first[2].Wake(services.ReadyBackend)
		}).Wake(services.ReadyStart)
		synctest.Wait()
		if len(order) != 3 || order[0] != 2 || order[1] != 0 || order[2] != 1 {
			t.Errorf("order is %v, want [2 0 1]", order)
		}
		if want := services.ReadyClient | services.ReadyBackend; reasons != want {
			t.Errorf("reasons are %b, want %b", reasons, want)
		}
	})
}

func TestTimersAreNeverEarlyAndAtMostATickLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := services.NewLoops(services.LoopOptions{N: 1})
		defer ls.Close()
		l := ls.At(0)
		rng := rand.New(rand.NewPCG(1, 2))
		fired := 0
		const n = 500
		newJob(l, func(now time.Duration, _ services.Ready) {
			for range n {
				// From one tick to five days, so that all levels and beyond are met.
				at := now + time.Duration(rng.Int64N(int64(10*time.Millisecond)<<rng.IntN(26)))
				newJob(l, func(now time.Duration, r services.Ready) {
					fired++
					if r != services.ReadyTimer {
						t.Errorf("ready is %b, want the timer's bit", r)
					}
					if late := now - at; late < 0 || late > 20*time.Millisecond {
						t.Errorf("timer for %v fired %v late, want 0 to 20 ms", at, late)
					}
				}).Arm(at)
			}
		}).Wake(services.ReadyStart)
		time.Sleep(9 * 24 * time.Hour)
		synctest.Wait()
		if fired != n {
			t.Errorf("%d timers fired, want %d", fired, n)
		}
	})
}

func TestTimersThatAreMovedOrStoppedDoNotFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := services.NewLoops(services.LoopOptions{N: 1})
		defer ls.Close()
		l := ls.At(0)
		var at []time.Duration
		var moved, stopped *job
		moved = newJob(l, func(now time.Duration, _ services.Ready) { at = append(at, now) })
		stopped = newJob(l, func(time.Duration, services.Ready) { t.Error("a stopped timer fired") })
		newJob(l, func(now time.Duration, _ services.Ready) {
			stopped.Arm(now + time.Second)
			moved.Arm(now + time.Second)
			moved.Arm(now + 3*time.Second)
			moved.ArmBy(now + 5*time.Second) // later: no change
			stopped.Disarm()
		}).Wake(services.ReadyStart)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(at) != 1 || at[0] < 3*time.Second || at[0] > 3020*time.Millisecond {
			t.Errorf("moved timer fired at %v, want once at 3s", at)
		}
	})
}

func TestAnIdleLoopDoesNotTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := services.NewLoops(services.LoopOptions{N: 1})
		defer ls.Close()
		j := newJob(ls.At(0), nil)
		j.do = func(now time.Duration, r services.Ready) {
			if r&services.ReadyStart != 0 {
				j.Arm(now + time.Hour)
			}
		}
		j.Wake(services.ReadyStart)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := ls.Stats().Sleeps; got > 8 {
			t.Errorf("it woke %d times in two hours with one timer, want at most 8", got)
		}
	})
}

func TestAPanicEndsOnlyItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := services.NewLoops(services.LoopOptions{N: 1})
		defer ls.Close()
		bad := newJob(ls.At(0), func(time.Duration, services.Ready) { panic("fault") })
		ran := 0
		good := newJob(ls.At(0), func(time.Duration, services.Ready) { ran++ })
		bad.Wake(services.ReadyStart)
		good.Wake(services.ReadyStart)
		synctest.Wait()
		if bad.panicked.Load() != 1 || ran != 1 || ls.Stats().Panics != 1 {
			t.Errorf("told %d times, other ran %d, counted %d; want 1 each", bad.panicked.Load(), ran, ls.Stats().Panics)
		}
	})
}

func BenchmarkWakeFromTheLoop(b *testing.B) {
	ls := services.NewLoops(services.LoopOptions{N: 1})
	defer ls.Close()
	done := make(chan struct{})
	left := b.N
	j := newJob(ls.At(0), nil)
	j.do = func(time.Duration, services.Ready) {
		if left--; left <= 0 {
			close(done)
			return
		}
		j.Wake(services.ReadyClient)
	}
	b.ReportAllocs()
	b.ResetTimer()
	j.Wake(services.ReadyStart)
	<-done
}

// A batch of tasks woken from another goroutine, as one burst of frames does.
func BenchmarkWakeBatchFromOutside(b *testing.B) {
	ls := services.NewLoops(services.LoopOptions{N: 1})
	defer ls.Close()
	const batch = 32
	done := make(chan struct{}, 1)
	var ran atomic.Int64
	jobs := make([]*job, batch)
	for i := range jobs {
		jobs[i] = newJob(ls.At(0), func(time.Duration, services.Ready) {
			if ran.Add(1)%batch == 0 {
				done <- struct{}{}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += batch {
		for _, j := range jobs {
			j.Wake(services.ReadyClient)
		}
		<-done
	}
}

func BenchmarkTimerSetAndStop(b *testing.B) {
	ls := services.NewLoops(services.LoopOptions{N: 1})
	defer ls.Close()
	done := make(chan struct{})
	j := newJob(ls.At(0), nil)
	j.do = func(now time.Duration, _ services.Ready) {
		for range b.N {
			j.Arm(now + 5*time.Second)
			j.Disarm()
		}
		close(done)
	}
	b.ReportAllocs()
	b.ResetTimer()
	j.Wake(services.ReadyStart)
	<-done
}
