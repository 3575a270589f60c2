package services

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
)

// Supervisor starts Services in order, drains them together and closes them
// in reverse order. It runs no goroutine but during Drain and for each service
// that retires.
type Supervisor struct {
	hurry    context.Context // of those that retire
	hasten   context.CancelFunc
	retiring sync.WaitGroup

	mu       sync.Mutex // guards the rest
	services []Service
	started  []Service
}

// NewSupervisor looks after the given services.
func NewSupervisor(all ...Service) *Supervisor {
	v := &Supervisor{services: all}
	v.hurry, v.hasten = context.WithCancel(context.Background())
	return v
}

// Services are all of them, in order; those that retire are among them until
// their last connection has ended.
func (v *Supervisor) Services() []Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.services)
}

// Add starts one more service.
func (v *Supervisor) Add(s Service) error {
	if err := s.Start(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.services, v.started = append(v.services, s), append(v.started, s)
	return nil
}

// Retire drains a service and forgets it when its last connection has ended.
func (v *Supervisor) Retire(s Service, how config.Drain) {
	s.Withdraw(nil)
	_ = s.StartDrain(how, "reload") // fails only if it drains already
	v.retiring.Go(func() {
		s.Drain(v.hurry, how)
		is := func(one Service) bool { return one == s }
		v.mu.Lock()
		defer v.mu.Unlock()
		v.services, v.started = slices.DeleteFunc(v.services, is), slices.DeleteFunc(v.started, is)
	})
}

// Start starts the services in order. When one fails, those that were started
// are closed again and the error says which.
func (v *Supervisor) Start(ctx context.Context) error {
	for _, s := range v.Services() {
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
	defer context.AfterFunc(ctx, v.hasten)()
	v.mu.Lock()
	started := slices.Clone(v.started)
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
	v.hasten()
	for i := len(started) - 1; i >= 0; i-- {
		started[i].Close()
	}
	v.retiring.Wait()
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
