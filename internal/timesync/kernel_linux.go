package timesync

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is this machine's clock.
type Kernel struct{}

var _ Clock = Kernel{}

// Step implements Clock.
func (Kernel) Step(by time.Duration) error {
	tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	return explain(unix.Settimeofday(&tv))
}

// Slew implements Clock, by adjtimex(2): half a millisecond a second.
func (Kernel) Slew(by time.Duration) error {
	const singleShot = 0x8001 // ADJ_OFFSET_SINGLESHOT: as adjtime(3)
	_, err := unix.Adjtimex(&unix.Timex{Modes: singleShot, Offset: by.Microseconds()})
	return explain(err)
}

func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("set the clock: %w: it needs CAP_SYS_TIME; without it write time: {set: off}", err)
	}
	return fmt.Errorf("set the clock: %w", err)
}
