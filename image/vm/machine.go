package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Machine is QEMU while it runs. Its methods may be called at the same time.
type Machine struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	began time.Time
	ended chan struct{} // closed when QEMU is gone

	mu   sync.Mutex
	out  bytes.Buffer  // all of the console
	seen int           // what Expect has passed
	news chan struct{} // closed and replaced when there is more
	err  error         // of QEMU, once ended
}

// ErrEnded is what Expect returns when QEMU has ended without the text.
var ErrEnded = errors.New("the machine has ended")

// Start boots a machine, which runs until Close or until it powers off.
func Start(c Config) (*Machine, error) {
	program, args, err := c.command()
	if err != nil {
		return nil, err
	}
	m := &Machine{cmd: exec.Command(program, args...), began: time.Now(), ended: make(chan struct{}), news: make(chan struct{})}
	m.cmd.SysProcAttr = orphanless()
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	m.cmd.Stdout = console{m}
	m.cmd.Stderr = console{m}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go m.wait() // Close waits for it
	return m, nil
}

// orphanless is for a QEMU that doesn't outlive us, should we be killed.
func orphanless() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// wait returns when QEMU has ended and its console is read.
func (m *Machine) wait() {
	err := m.cmd.Wait()
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	close(m.ended)
}

// console is where QEMU writes.
type console struct{ m *Machine }

func (c console) Write(p []byte) (int, error) {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.Write(p)
	close(m.news)
	m.news = make(chan struct{})
	return len(p), nil
}

// Expect waits for text that matches the pattern, behind what an earlier Expect
// has matched, and returns it with its groups. An error shows the end of the
// console.
func (m *Machine) Expect(ctx context.Context, pattern string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for {
		match, news := m.match(re)
		if match != nil {
			return match, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %q on the console: %w; its end is:\n%s", pattern, ctx.Err(), m.tail())
		case <-m.ended:
			if match, _ := m.match(re); match != nil {
				return match, nil
			}
			return nil, fmt.Errorf("wait for %q on the console: %w; its end is:\n%s", pattern, ErrEnded, m.tail())
		}
	}
}

func (m *Machine) match(re *regexp.Regexp) ([]string, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := m.out.Bytes()[m.seen:]
	at := re.FindSubmatchIndex(rest)
	if at == nil {
		return nil, m.news
	}
	var groups []string
	for i := 0; i < len(at); i += 2 {
		g := ""
		if at[i] >= 0 {
			g = string(rest[at[i]:at[i+1]])
		}
		groups = append(groups, g)
	}
	m.seen += at[1]
	return groups, nil
}

// Console is all that the machine has written so far, without escape sequences
// and carriage returns.
func (m *Machine) Console() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return plain(m.out.String())
}

// escapes are those of ECMA-48: the firmware and the loader paint.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|\r`)

func plain(s string) string { return escapes.ReplaceAllString(s, "") }

func (m *Machine) tail() string {
	lines := strings.Split(strings.TrimSpace(m.Console()), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// Type sends text to the console, as if typed.
func (m *Machine) Type(text string) error {
	_, err := io.WriteString(m.stdin, text)
	return err
}

// Up is how long ago the power came on.
func (m *Machine) Up() time.Duration { return time.Since(m.began) }

// PID is QEMU's, for measurements.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Wait waits until the machine has powered off.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.ended:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the machine to power off: %w; the end of its console is:\n%s", ctx.Err(), m.tail())
	}
}

// Close cuts the power and waits until QEMU is gone. It may be called again.
func (m *Machine) Close() error {
	err := m.cmd.Process.Kill()
	<-m.ended
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
