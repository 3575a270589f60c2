package journal

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Moment is a time that can be compared with one before a crash: within a boot
// by the time since it began, which nobody sets back; across boots by the clock.
type Moment struct {
	Wall time.Time
	Boot [16]byte
	Up   time.Duration // since the boot, suspended time included
}

// Now is the current moment.
func Now() (Moment, error) {
	m := Moment{Wall: time.Now()}
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return m, fmt.Errorf("tell this boot from others: %w", err)
	}
	id, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(id) != len(m.Boot) {
		return m, fmt.Errorf("tell this boot from others: %q is no boot's number", text)
	}
	m.Boot = [16]byte(id)
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return m, fmt.Errorf("read the time since the boot: %w", err)
	}
	m.Up = time.Duration(ts.Nano())
	return m, nil
}

// since is how long ago another moment was; negative if the clock was set back.
func (m Moment) since(other Moment) time.Duration {
	if m.Boot == other.Boot {
		return m.Up - other.Up
	}
	return m.Wall.Sub(other.Wall)
}
