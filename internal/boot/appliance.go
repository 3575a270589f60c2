package boot

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// User is the number of the appliance's user and group.
const User = 900

const (
	signOfLife   = 20 * time.Second // the appliance's watchdog: it gives two signs in this time
	startTimeout = time.Minute      // from its start until it is ready
	steady       = time.Minute      // after so long a run the next failure is the first again
	mostFailures = 10               // in a row, then the box reboots
	longestPause = 30 * time.Second
)

// appliance is the process that does the work. All of it belongs to the goroutine of serve.
type appliance struct {
	process  *os.Process
	exited   <-chan syscall.WaitStatus // nil while none runs
	started  time.Time
	ready    bool
	sign     time.Time // of life, the last
	answered time.Time // on its admin socket, the last
	failures int       // in a row
	restarts int
	next     time.Time // not before then again
	builtin  bool      // it runs on the built-in configuration, because its own is wrong
	stopping bool
	extended time.Duration // so long it said that its stop may take
}

// pause is how long to wait before a start after so many failures.
func pause(failures int) time.Duration {
	if failures < 1 {
		return 0
	}
	return min(time.Second<<min(failures-1, 10), longestPause)
}

// ConfinedCommand is the hidden command that confines itself and then becomes the appliance.
const ConfinedCommand = "confined"

// run starts the appliance.
func (b *Box) run() {
	a := &b.appliance
	a.next = time.Now().Add(pause(a.failures))
	p, exited, err := b.spawn(b.arguments(), caps()...)
	if err != nil {
		b.failed("the appliance cannot be started: " + err.Error())
		return
	}
	now := time.Now()
	*a = appliance{process: p, exited: exited, started: now, sign: now, answered: now, failures: a.failures, restarts: a.restarts, next: a.next, builtin: a.builtin}
	b.heard = false
	b.setPID(p.Pid)
}

// arguments are the appliance's own.
func (b *Box) arguments() []string {
	return []string{"run", "--config", b.configFile(), "--state-dir", b.path("data/state"), "--log-format", "text"}
}

// configFile is the operator's, or the built-in one if there is none or it's wrong.
func (b *Box) configFile() string {
	own := b.path(ConfigFile)
	if _, err := os.Stat(own); err != nil || b.appliance.builtin {
		return b.path(DefaultConfig)
	}
	return own
}

func (b *Box) environment() []string {
	return []string{
		"NOTIFY_SOCKET=" + b.path(noticePath), fmt.Sprintf("WATCHDOG_USEC=%d", signOfLife.Microseconds()),
		"HOME=" + b.path("data/state"), "TMPDIR=" + b.path("run"), "NO_COLOR=1", "TZ=UTC",
		"GOTRACEBACK=all",
	}
}

// exitedWith looks what to do when the appliance has ended.
func (b *Box) exitedWith(status syscall.WaitStatus) {
	a := &b.appliance
	how := fmt.Sprintf("status %d", status.ExitStatus())
	if status.Signaled() {
		how = "signal " + status.Signal().String()
	}
	long := a.ready && time.Since(a.started) > steady
	a.exited, a.ready = nil, false
	b.setPID(0)
	if status.Exited() && status.ExitStatus() == 2 && !a.builtin && b.configFile() != b.path(DefaultConfig) {
		a.builtin = true
		b.problem("config", "THE CONFIGURATION IS WRONG, the box runs on the built-in one until it is mended (the log says where)")
	}
	if long {
		a.failures = 0
	}
	b.failed("the appliance ended with " + how)
}

// failed counts a failure, and gives up after too many.
func (b *Box) failed(what string) {
	a := &b.appliance
	a.failures++
	a.restarts++
	a.next = time.Now().Add(pause(a.failures))
	b.trouble(what)
	b.log.Error(what, "failures", a.failures, "next", pause(a.failures))
	if a.failures >= mostFailures {
		b.order(Order{Kind: Reboot, Why: fmt.Sprintf("%s, %d times in a row", what, a.failures)})
	}
}

// noticed takes what the appliance says.
func (b *Box) noticed(n notice) {
	a := &b.appliance
	now := time.Now()
	if n.alive || n.ready {
		a.sign = now
	}
	if n.ready && !a.ready {
		a.ready, a.answered = true, now
		b.log.Info("the appliance is ready", "after", now.Sub(a.started).Round(time.Millisecond), "since_boot", sinceBoot().Round(time.Millisecond))
		b.remember(func(r *BootRecord) { r.Ready = true })
	}
	if n.stopping {
		a.stopping = true
	}
	a.extended = max(a.extended, n.extend)
	if n.pid > 1 && a.process != nil && n.pid != a.process.Pid {
		b.log.Info("another process has taken the appliance's place", "pid", n.pid)
		if p, err := os.FindProcess(n.pid); err == nil {
			a.process, a.exited, a.started, a.sign, a.answered = p, b.procs.adopt(n.pid), now, now, now
			b.setPID(n.pid)
		}
	}
}

// lifeless tells why the appliance must be taken for dead though its process is there; "" if it lives.
func (a *appliance) lifeless(now time.Time) string {
	switch {
	case a.exited == nil || a.stopping:
		return ""
	case !a.ready && now.Sub(a.started) > startTimeout:
		return fmt.Sprintf("the appliance did not get ready within %v", startTimeout)
	case a.ready && now.Sub(a.sign) > signOfLife+2*time.Second:
		return fmt.Sprintf("the appliance gave no sign of life for %v", signOfLife)
	case a.ready && now.Sub(a.answered) > signOfLife+10*time.Second:
		return fmt.Sprintf("the appliance did not answer on its socket for %v", signOfLife)
	}
	return ""
}
