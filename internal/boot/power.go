package boot

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is how the machine ends.
type Kind string

// The ends.
const (
	Reboot   Kind = "reboot"
	PowerOff Kind = "poweroff"
)

// Order asks for the end of this boot.
type Order struct {
	Kind    Kind
	Why     string
	Suspend bool // connections are saved for the next boot; otherwise they end in order
	Force   bool // the appliance isn't asked: it does not answer
}

// order gives one; the first counts.
func (b *Box) order(o Order) {
	select {
	case b.orders <- o:
	default: // one waits already
	}
}

const (
	suspendTime = 30 * time.Second
	// stopSlack is what a stop may take beyond what the appliance says.
	stopSlack   = 15 * time.Second
	longestStop = 2 * time.Hour
)

// end brings everything to its end and the machine down, through the firmware: a kexec would hide
// a firmware path that does not boot until the next cold start.
func (b *Box) end(o Order) {
	b.log.Warn("going down", "how", o.Kind, "why", o.Why)
	b.remember(func(r *BootRecord) { r.End = string(o.Kind) + ": " + o.Why })
	if b.onTrial() && o.Kind == Reboot {
		b.log.Warn("the slot is not good yet: one of its tries is used")
	}
	b.stopAppliance(o)
	if b.control != nil {
		b.control.close()
	}
	b.saveClock(true)
	b.log.Info("bye")
	b.lines.close()
	killAll()
	unix.Sync()
	for _, at := range []string{"data", "esp"} {
		if err := unix.Unmount(b.path(at), 0); err != nil {
			// Something holds it: what is written is on the disk, and the journal knows.
			_ = unix.Mount("", b.path(at), "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	_ = b.dog.feed()
	command := unix.LINUX_REBOOT_CMD_RESTART
	if o.Kind == PowerOff {
		command = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	b.restart(command)
}

// restart doesn't return; should the firmware fail, the watchdog is left.
func (b *Box) restart(command int) {
	for {
		_ = unix.Reboot(command)
		time.Sleep(time.Second)
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
}

// stopAppliance lets it save or end its connections, and waits.
func (b *Box) stopAppliance(o Order) {
	a := &b.appliance
	if a.exited == nil {
		return
	}
	if o.Force {
		_ = a.process.Kill()
		b.waitExit(5 * time.Second)
		return
	}
	if o.Suspend && a.ready {
		err := b.fedWhile(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), suspendTime)
			defer cancel()
			return b.o.Suspend(ctx, b.configFile())
		})
		if err == nil && b.waitExit(suspendTime) {
			b.log.Info("connections are saved, the next boot goes on with them")
			return
		}
		b.log.Warn("connections cannot be saved, they end in order instead", "error", err)
	}
	_ = a.process.Signal(syscall.SIGTERM)
	if b.waitExit(suspendTime) {
		return
	}
	b.log.Error("the appliance does not end: killed")
	_ = a.process.Kill()
	b.waitExit(5 * time.Second)
}

// waitExit waits until the appliance has ended, for as long as it was given or has
// asked for. The watchdog is fed meanwhile.
func (b *Box) waitExit(most time.Duration) bool {
	a := &b.appliance
	begun := time.Now()
	clock := time.NewTicker(beat)
	defer clock.Stop()
	for {
		select {
		case <-a.exited:
			a.exited = nil
			return true
		case n := <-b.notices:
			b.noticed(n)
		case <-b.answers:
		case <-clock.C:
			_ = b.dog.feed()
			if time.Since(begun) > min(max(most, a.extended+stopSlack), longestStop) {
				return false
			}
		}
	}
}

// fedWhile feeds the watchdog while f runs, which has to end by itself.
func (b *Box) fedWhile(f func() error) error {
	done := make(chan error, 1)
	b.start(func() { done <- f() })
	clock := time.NewTicker(beat)
	defer clock.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-clock.C:
			_ = b.dog.feed()
		}
	}
}
