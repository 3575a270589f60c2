package services

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
)

// Supervisor starts Services in order, drains them together and closes them
// in reverse order. It runs no goroutine but during Drain.
type Supervisor struct {
	services []Service
	mu       sync.Mutex // guards started
	started  []Service
}

// NewSupervisor looks after the given services.
func NewSupervisor(all ...Service) *Supervisor { return &Supervisor{services: all} }

// Services are all of them, in order.
func (v *Supervisor) Services() []Service { return v.services }

// Start starts the services in order. When one fails, those that were started
// are closed again and the error says which.
func (v *Supervisor) Start(ctx context.Context) error {
	for _, s := range v.services {
		err := ctx.Err()
		if err == nil {
			err = s.Start()
		}
		if err != nil {
			v.Close()
			return fmt.Errorf("start services: %w", err)
		}
		v.mu.Lock()
		v.started = append(v.started, s)
		v.mu.Unlock()
	}
	return nil
}

// Drain waits for d.Announce, then drains all services at once and adds up
// their reports. When ctx is canceled the rest of the announcement is skipped
// and the deadline is now. It returns when all have ended.
func (v *Supervisor) Drain(ctx context.Context, d config.Drain) Report {
	begin := time.Now()
	pause(ctx, d.Announce)
	v.mu.Lock()
	started := v.started
	v.mu.Unlock()
	reports := make([]Report, len(started))
	var running sync.WaitGroup
	for i, s := range started {
		running.Go(func() { reports[i] = s.Drain(ctx, d) })
	}
	running.Wait()
	var total Report
	for _, r := range reports {
		total.include(r)
	}
	total.Took = time.Since(begin)
	return total
}

// Stop is the short way: FIN to everyone now, RST to who doesn't answer within
// d.FinGrace.
func (v *Supervisor) Stop(ctx context.Context, d config.Drain) Report {
	d.Announce, d.Deadline = 0, 0
	return v.Drain(ctx, d)
}

// Close closes what was started, the last first. It resets what still lives,
// and is idempotent.
func (v *Supervisor) Close() {
	v.mu.Lock()
	started := v.started
	v.started = nil
	v.mu.Unlock()
	for i := len(started) - 1; i >= 0; i-- {
		started[i].Close()
	}
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
