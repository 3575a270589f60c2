package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// process is one that was started and will be stopped. Whoever starts it stops
// it.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // after ended
	said  *tail // on standard error, and for peers on standard output
}

// start starts cmd on h. It dies with this process, and a ^C at the terminal
// reaches only this process, which then stops it in order.
func start(h *lab.Host, name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, ended: make(chan struct{}), said: &tail{}}
	cmd.Stderr = p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if err := h.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // stop waits for it
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop asks the process to end, and kills it if it doesn't.
func (p *process) stop(ask func() error, within time.Duration) error {
	if p == nil {
		return nil
	}
	err := ask()
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrClosed) { // it ended by itself
		err = nil
	}
	select {
	case <-p.ended:
	case <-time.After(within):
		err = errors.Join(fmt.Errorf("%s did not end within %v and was killed: %s", p.name, within, p.said), p.cmd.Process.Kill())
		<-p.ended
	}
	return err
}

// terminate sends SIGTERM.
func (p *process) terminate() error { return p.cmd.Process.Signal(unix.SIGTERM) }

// alive is an error if the process has ended.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended (%v): %s", p.name, p.err, p.said)
	default:
		return nil
	}
}

// residentBytes is the process's resident memory, see proc_pid_status(5); no
// process has none.
func (p *process) residentBytes() (int64, error) {
	if p == nil {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	return parseResident(string(b))
}

func parseResident(status string) (int64, error) { return kibibytes(status, "VmRSS") }

// kibibytes reads one line of /proc/PID/status or /proc/meminfo, in bytes.
func kibibytes(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("read memory: the kernel gives no %s", name)
}

// cpuTime is what the process has used until now, see proc_pid_stat(5); no
// process uses none.
func (p *process) cpuTime() (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of %s: %w", p.name, err)
	}
	return parseCPUTime(string(b))
}

// parseCPUTime adds user and system time, fields 14 and 15. Both are in ticks
// of 10 ms on every architecture of Linux.
func parseCPUTime(stat string) (time.Duration, error) {
	// The name before field 3 may hold anything.
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return 0, errors.New("read CPU time: the kernel gives too few fields")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// tailBytes is how much of what a process said an error shows.
const tailBytes = 2 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String is the last of it, or says that there was nothing.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return "it said nothing"
	}
	return strings.TrimSpace(string(t.text))
}
