package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// stopSignals are the three ways the process is asked to stop, each stricter
// than the one before.
type stopSignals struct {
	asked context.Context // SIGTERM or SIGINT: drain
	hurry context.Context // the second one: the drain's deadline is now
	quit  context.Context // SIGQUIT: reset what is left

	reload  chan struct{} // capacity 1: SIGHUP
	upgrade chan struct{} // capacity 1: SIGUSR2
	arrived chan os.Signal
	done    chan struct{}
	wg      sync.WaitGroup
	cancel  []context.CancelFunc
	closing sync.Once
	last    bool // set by close: one has asked to stop
}

// watchSignals takes over the process's signals until close.
func watchSignals(parent context.Context, log *slog.Logger) *stopSignals {
	s := &stopSignals{reload: make(chan struct{}, 1), upgrade: make(chan struct{}, 1), arrived: make(chan os.Signal, 8), done: make(chan struct{})}
	derive := func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		s.cancel = append(s.cancel, cancel)
		return ctx
	}
	s.asked, s.hurry, s.quit = derive(parent), derive(context.WithoutCancel(parent)), derive(context.WithoutCancel(parent))
	// A reader of the log that goes away must not end the process: SIGPIPE
	// becomes an error of the write.
	signal.Notify(s.arrived, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGPIPE)
	s.wg.Go(func() { s.watch(log) })
	return s
}

// stop is what SIGTERM does.
func (s *stopSignals) stop() {
	select {
	case s.arrived <- syscall.SIGTERM:
	default: // as many signals wait already
	}
}

func (s *stopSignals) watch(log *slog.Logger) {
	for {
		var sig os.Signal
		select {
		case <-s.done:
			return
		case sig = <-s.arrived:
		}
		switch {
		case sig == syscall.SIGPIPE:
		case sig == syscall.SIGHUP:
			select {
			case s.reload <- struct{}{}:
			default: // one is about to begin, and will see the same file
			}
		case sig == syscall.SIGUSR2:
			select {
			case s.upgrade <- struct{}{}:
			default: // one is about to begin
			}
		case sig == syscall.SIGQUIT:
			log.Warn("SIGQUIT: resetting what is left")
			s.raise(3)
		case s.asked.Err() == nil:
			log.Info("asked to stop: draining; once more to make the deadline now", "signal", sig.String())
			s.raise(1)
		default:
			log.Warn("asked to stop once more: the deadline is now", "signal", sig.String())
			s.raise(2)
		}
	}
}

// raise cancels the first n contexts.
func (s *stopSignals) raise(n int) {
	for _, cancel := range s.cancel[:n] {
		cancel()
	}
}

// close gives the signals back, and reports whether one has asked to stop until
// then. It may be called again.
func (s *stopSignals) close() (asked bool) {
	s.closing.Do(func() {
		signal.Stop(s.arrived)
		close(s.done)
		s.wg.Wait()
		s.last = s.asked.Err() != nil
		for more := true; more; {
			select {
			case sig := <-s.arrived:
				s.last = s.last || sig == syscall.SIGTERM || sig == syscall.SIGINT
			default:
				more = false
			}
		}
		s.raise(len(s.cancel))
	})
	return s.last
}
