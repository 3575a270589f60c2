package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spawn starts a command of this binary, confined and as the appliance's user, with
// what it says in the log.
func (b *Box) spawn(args []string, caps ...uintptr) (*os.Process, <-chan syscall.WaitStatus, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	whole := append([]string{"appliance", ConfinedCommand, "--"}, args...)
	p, exited, err := b.procs.start(b.path("init"), whole, &os.ProcAttr{
		Dir: "/", Env: b.environment(), Files: []*os.File{nil, w, w},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: User, Gid: User, Groups: []uint32{}}, AmbientCaps: caps},
	})
	_ = w.Close() // it has its own
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	b.start(func() {
		_, _ = io.Copy(b.lines, r) // ends with the last process that has the other end
		_ = r.Close()
	})
	return p, exited, nil
}

// onceTime bounds a command that runs before the appliance.
const onceTime = 30 * time.Second

// provide takes what an operator has put on the EFI partition for the first boot. The
// files are a stranger's: the appliance's user reads them, not process 1.
func (b *Box) provide() {
	p, exited, err := b.spawn([]string{
		"provision", "--config", b.path(ConfigFile), "--keys", b.path("data/config/authorized_keys"), "--state-dir", b.path("data/state"), b.path("esp"),
	})
	if err != nil {
		b.warn("provision", err)
		return
	}
	if status := b.waitFor(p, exited, onceTime); status.ExitStatus() != 0 {
		b.problem("provision", "what is on the EFI partition for the first boot was not taken, the log says why")
	}
}

// waitFor waits until a process has ended, which is killed after so long. The watchdog is fed meanwhile.
func (b *Box) waitFor(p *os.Process, exited <-chan syscall.WaitStatus, most time.Duration) (status syscall.WaitStatus) {
	_ = b.fedWhile(func() error {
		late := time.AfterFunc(most, func() { _ = p.Kill() })
		defer late.Stop()
		status = <-exited
		return nil
	})
	return status
}

// consolePause is how long the console stays away after it has ended.
const consolePause = 3 * time.Second

// login serves the command line on the serial port, with a login. It belongs to the
// goroutine of serve.
type login struct {
	tty    string // "" if there is none
	exited <-chan syscall.WaitStatus
	next   time.Time
}

// findConsole gives the terminal that is /dev/console to the appliance's user.
func (b *Box) findConsole() {
	if b.o.NoConsole {
		return
	}
	line, err := readLine(b.path("sys/class/tty/console/active"))
	names := strings.Fields(line)
	if err != nil || len(names) == 0 {
		return
	}
	tty := filepath.Join(b.path("dev"), names[len(names)-1])
	if err := errors.Join(b.chown(tty, User, User), os.Chmod(tty, 0o600)); err != nil {
		b.warn("console", err)
		return
	}
	b.login.tty = tty
}

// keepLogin starts the console, and starts it again.
func (b *Box) keepLogin(now time.Time) {
	l := &b.login
	if l.tty == "" || l.exited != nil || now.Before(l.next) {
		return
	}
	l.next = now.Add(consolePause)
	_, exited, err := b.spawn([]string{"console", "--tty", l.tty, "--config", b.configFile(), "--state-dir", b.path("data/state")})
	if err != nil {
		b.warn("console", fmt.Errorf("serve the console: %w", err))
		return
	}
	l.exited = exited
}

// caps are what the appliance needs: its cards, and the clock that NTP sets.
func caps() []uintptr { return []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_TIME} }
