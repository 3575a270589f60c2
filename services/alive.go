package services

import (
	"context"
	"time"
)

// errand is a Task that tells that its loop came to it.
type errand struct {
	Task
	came chan<- struct{}
}

// Run implements Runner.
func (e *errand) Run(time.Duration, Ready) { e.came <- struct{}{} }

// Panicked implements Runner.
func (e *errand) Panicked(time.Duration) {}

// Turn returns when every loop has come to what it is given now, which takes
// microseconds unless one hangs; then it returns the error of ctx.
func (ls *Loops) Turn(ctx context.Context) error {
	came := make(chan struct{}, len(ls.all))
	for _, l := range ls.all {
		e := &errand{came: came}
		e.Init(l, e)
		e.Wake(ReadyStart)
	}
	for range ls.all {
		select {
		case <-came:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
