package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/lastack/lastack/config"
)

// manager tells the service manager how the daemon is (sd_notify(3)). Without
// one, which is where NOTIFY_SOCKET is not set, nothing is sent.
type manager struct {
	log   *slog.Logger
	every time.Duration // between signs of life; 0 without a watchdog
	wg    sync.WaitGroup
	end   context.CancelFunc
}

// newManager looks whether there is a service manager.
func newManager(log *slog.Logger) *manager {
	m := &manager{log: log, end: func() {}}
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog is not understood, and gets no signs of life", "error", err)
	}
	m.every = every / 2 // as sd_watchdog_enabled(3) recommends
	return m
}

func (m *manager) say(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		m.log.Warn("the service manager does not listen", "state", state, "error", err)
	}
}

// ready tells that the daemon serves, and begins to give signs of life for as
// long as alive returns in time.
func (m *manager) ready(ctx context.Context, state string, alive func(context.Context) error) {
	m.say(state)
	if m.every <= 0 {
		return
	}
	ctx, m.end = context.WithCancel(ctx)
	m.wg.Go(func() {
		tick := time.NewTicker(m.every)
		defer tick.Stop()
		for {
			turn, cancel := context.WithTimeout(ctx, m.every)
			err := alive(turn)
			cancel()
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				m.log.Error("an event loop does not come round; the service manager's watchdog gets no sign of life", "after", m.every)
			default:
				m.say(systemd.SdNotifyWatchdog)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// serving is the state of a daemon that serves.
func serving(c *config.Config) string {
	return fmt.Sprintf("%s\nSTATUS=serving %d services", systemd.SdNotifyReady, len(c.Services))
}

// reloading tells that the configuration is read again; serving ends that.
func (m *manager) reloading() {
	m.say(systemd.SdNotifyReloading + "\n" + systemd.SdNotifyMonotonicUsec())
}

// stopping tells that the daemon drains and may need so much longer to end.
func (m *manager) stopping(left time.Duration) {
	m.say(systemd.SdNotifyStopping + "\nSTATUS=draining")
	m.extend(left)
}

// extend asks for more time before the manager loses patience.
func (m *manager) extend(left time.Duration) {
	m.say(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", left.Microseconds()))
}

// close ends the signs of life.
func (m *manager) close() {
	m.end()
	m.wg.Wait()
}
