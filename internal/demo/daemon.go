package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/services/admin"
)

// Names in the demonstration's directory, which the appliance runs in.
const (
	configName = "appliance.yaml"
	socketName = "appliance.sock"
	logName    = "appliance.log"
	stateName  = "nic"
)

// daemon is the appliance as a child process on its host.
type daemon struct {
	cmd   *exec.Cmd
	log   string // file
	admin *admin.Client
	ended chan struct{} // closed when it has ended and was waited for
}

// appliance is one of its commands, to be run in dir.
func appliance(program, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	// What the user has set for an appliance of his own is not for this one.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "APPLIANCE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	// Ctrl-C is for the demonstration, which then stops the appliance in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	return cmd
}

// runArgs start the daemon.
var runArgs = []string{"run", "-c", configName, "--state-dir", stateName, "--log-format", "text"}

// startDaemon starts the appliance and waits until it answers.
func startDaemon(ctx context.Context, program, dir string, box *lab.Host) (*daemon, error) {
	d := &daemon{
		cmd: appliance(program, dir, runArgs...), log: filepath.Join(dir, logName),
		admin: admin.NewClient(filepath.Join(dir, socketName)), ended: make(chan struct{}),
	}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, fmt.Errorf("make the appliance's log: %w", err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := box.Start(d.cmd); err != nil {
		return nil, fmt.Errorf("start the appliance: %w", err)
	}
	go func() {
		defer close(d.ended) // kill waits for this
		// How it ended is in ProcessState.
		_ = d.cmd.Wait()
	}()
	return d, d.awaitReady(ctx)
}

// awaitReady returns when the daemon answers.
func (d *daemon) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := d.admin.Status(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-d.ended:
			return fmt.Errorf("the appliance ended with status %d before it was ready", d.status())
		case <-ctx.Done():
			return fmt.Errorf("wait for the appliance to be ready: %w", context.Cause(ctx))
		}
	}
}

// awaitIdle returns when the connections of the steps before are forgotten, so
// that the report counts the crowd alone. Somebody else's may stay.
func (d *daemon) awaitIdle(ctx context.Context) error {
	tick, enough := time.NewTicker(20*time.Millisecond), time.After(2*time.Second)
	defer tick.Stop()
	for {
		rows, err := d.admin.Conns(ctx)
		if err != nil {
			return fmt.Errorf("ask the appliance for its connections: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-enough:
			return nil
		}
	}
}

// status is its exit status, once it has ended; -1 if a signal killed it.
func (d *daemon) status() int { return d.cmd.ProcessState.ExitCode() }

// terminate asks it to stop.
func (d *daemon) terminate() error {
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop the appliance: %w", err)
	}
	return nil
}

// kill makes an end of it, if it hasn't come yet.
func (d *daemon) kill() {
	// It has ended already if this fails.
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// lines are the last n lines of its log that contain text.
func (d *daemon) lines(text string, n int) (string, error) {
	all, err := os.ReadFile(d.log)
	if err != nil {
		return "", fmt.Errorf("read the appliance's log: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return strings.Join(found[max(0, len(found)-n):], ""), nil
}

// command runs a command of the appliance to its end, as a person would on its
// host, and shows it with what it wrote.
func (d *demo) command(args ...string) (string, error) {
	d.page.command(append([]string{"appliance"}, args...)...)
	cmd := appliance(d.program, d.dir, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := d.scene.box.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	d.page.output(out.String())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("`appliance %s` ended with status %d", strings.Join(args, " "), exit.ExitCode())
	}
	if err != nil {
		return "", fmt.Errorf("run `appliance %s`: %w", strings.Join(args, " "), err)
	}
	return out.String(), nil
}
