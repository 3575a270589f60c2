package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogTimeout is what a hardware watchdog waits for a sign of life before it
// resets the box: longer than any step of the start takes without one, and with the
// time that the start takes after a reset well below the minute that is promised.
const watchdogTimeout = 30 * time.Second

// softwareWatchdog is the identity of the kernel's softdog, which stands in where there is no other.
const softwareWatchdog = "Software Watchdog"

// watchdog is the hardware's, if there is one. Linux keeps it running when its
// file is closed without the letter V, and so does this: whatever happens to
// process 1, the box comes back.
type watchdog struct {
	file    *os.File // nil without hardware
	name    string
	timeout time.Duration
	reset   bool // it is what reset the box the last time
}

// armWatchdog starts the first one that there is under dev, fs.ErrNotExist if none.
func armWatchdog(dev, sys string) (*watchdog, error) {
	f, err := os.OpenFile(filepath.Join(dev, "watchdog0"), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	w := &watchdog{file: f, name: "watchdog0", timeout: watchdogTimeout}
	if name, err := readLine(filepath.Join(sys, "class/watchdog/watchdog0/identity")); err == nil {
		w.name = name
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(watchdogTimeout/time.Second)); err != nil {
		// It has one that can't be changed: ask which.
		n, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT)
		if err != nil {
			n = 10
		}
		w.timeout = time.Duration(n) * time.Second
	}
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETBOOTSTATUS); err == nil {
		w.reset = flags&unix.WDIOF_CARDRESET != 0
	}
	return w, w.feed()
}

// feed gives a sign of life.
func (w *watchdog) feed() error {
	if w == nil {
		return nil
	}
	// Any write is one, without the magic letter V: watchdog-api.rst.
	if _, err := w.file.Write([]byte{0}); err != nil {
		return fmt.Errorf("feed the watchdog: %w", err)
	}
	return nil
}

// String is for people.
func (w *watchdog) String() string {
	if w == nil {
		return "none: nothing resets the box if the kernel hangs"
	}
	return fmt.Sprintf("%s, %v", w.name, w.timeout)
}

// arm arms the watchdog as soon as there is one, which is when its module is loaded.
func (b *Box) arm() {
	if b.dog != nil {
		_ = b.dog.feed() // the health loop says so if it goes on
		return
	}
	dog, err := armWatchdog(b.path("dev"), b.path("sys"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case dog == nil:
		b.log.Error("the hardware watchdog cannot be opened", "error", err)
	default:
		b.dog = dog
		b.log.Info("hardware watchdog armed", "watchdog", dog.String())
	}
}
