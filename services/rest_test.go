package services_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/lastack/lastack/services"
)

// busy wakes itself for ever.
type busy struct {
	services.Task
	runs atomic.Int64
}

func (b *busy) Run(time.Duration, services.Ready) {
	b.runs.Add(1)
	b.Wake(services.ReadyStart)
}

func (b *busy) Panicked(time.Duration) {}

// No task runs while the loops rest, and all go on afterwards; loops that rest
// can be closed.
func TestNoTaskRunsWhileTheLoopsRest(t *testing.T) {
	loops := services.NewLoops(services.LoopOptions{N: 3, Since: time.Hour})
	if now := loops.Now(); now < time.Hour || now > time.Hour+time.Minute {
		t.Errorf("their time is %v", now)
	}
	all := make([]busy, 3)
	for i := range all {
		all[i].Init(loops.At(i), &all[i])
		all[i].Wake(services.ReadyStart)
	}
	sum := func() (n int64) {
		for i := range all {
			n += all[i].runs.Load()
		}
		return n
	}
	for range 100 {
		loops.Pause()
		loops.Pause() // twice is once
		before := sum()
		time.Sleep(time.Millisecond)
		if n := sum() - before; n != 0 {
			t.Fatalf("%d runs while they rest", n)
		}
		loops.Resume()
		loops.Resume()
		for end := time.Now().Add(10 * time.Second); sum() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("they do not go on")
			}
		}
	}
	loops.Pause()
	loops.Close()
}
