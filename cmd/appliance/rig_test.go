package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// rig is a network of three hosts, with the appliance as a process of its own
// on the one in the middle:
//
//	client c0 192.0.2.2 ---- wan0 192.0.2.10 box lan0 10.0.0.1 ---- b0 10.0.0.21 backend
//	       2001:db8::2       2001:db8::10        fd00:10::1         10.0.0.22, fd00:10::21
type rig struct {
	t                    testing.TB
	client, box, backend *lab.Host
	wan                  *lab.ImpairedLink // nil if the wire has no faults
	dir, file, socket    string
	admin                *admin.Client
}

// newRig makes the network; fault, if there is one, is what the client's wire does.
func newRig(t testing.TB, fault *lab.Impairment) *rig {
	t.Helper()
	r := &rig{t: t, client: labtest.Host(t, "client"), box: labtest.Host(t, "box"), backend: labtest.Host(t, "backend"), dir: t.TempDir()}
	r.file, r.socket = filepath.Join(r.dir, "appliance.yaml"), filepath.Join(r.dir, "a.sock")
	r.admin = admin.NewClient(r.socket)
	if fault != nil {
		r.wan = labtest.WireImpaired(t, r.client, "c0", r.box, "wan0", *fault)
	} else {
		labtest.Wire(t, r.client, "c0", r.box, "wan0")
	}
	labtest.Wire(t, r.backend, "b0", r.box, "lan0")
	labtest.Addr(t, r.client, "c0", "192.0.2.2/24", "2001:db8::2/64")
	labtest.Addr(t, r.backend, "b0", "10.0.0.21/24", "10.0.0.22/24", "fd00:10::21/64")
	return r
}

const interfacesYAML = `interfaces:
  wan0: {addresses: [192.0.2.10/24, "2001:db8::10/64"]}
  lan0: {addresses: [10.0.0.1/24, "fd00:10::1/64"]}
`

// configure writes the configuration: the rest is services and what follows.
func (r *rig) configure(rest string) {
	r.t.Helper()
	r.configureWith("", rest)
}

// configureWith is configure with more cards.
func (r *rig) configureWith(cards, rest string) {
	r.t.Helper()
	text := interfacesYAML + cards + rest + "admin: {socket: " + r.socket + "}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// inTime is a bound for a machine that does nothing else, as make soak has it. Beside
// other tests it is three times as long.
func inTime(d time.Duration) time.Duration {
	if os.Getenv("APPLIANCE_SOAK") != "" {
		return d
	}
	return 3 * d
}

// process is a run of the appliance.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	ended <-chan error
	log   *output
}

// output is what a process wrote, while it writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// appliance is a command of the program under test, to be run on the box.
func (r *rig) appliance(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "appliance"
	cmd.Env = append(os.Environ(), playRole+"=1", "APPLIANCE_STATE_DIR="+filepath.Join(r.dir, "nic"), "APPLIANCE_SOCKET="+r.socket)
	return cmd
}

// start runs the daemon until it answers.
func (r *rig) start() *process {
	r.t.Helper()
	p := r.launch()
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := r.admin.Status(r.t.Context())
		if err == nil {
			return p
		}
		select {
		case err := <-p.ended:
			r.t.Fatalf("the appliance ended with %v before it was ready:\n%s", err, p.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the appliance is not ready after 20 s: %v\n%s", err, p.log)
		}
	}
}

// launch runs the daemon and does not wait.
func (r *rig) launch() *process {
	r.t.Helper()
	p := &process{t: r.t, cmd: r.appliance("run", "-c", r.file, "--log-format", "text"), log: &output{}}
	p.cmd.Stderr = p.log
	p.ended = labtest.Start(r.t, r.box, p.cmd)
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("the appliance's log:\n%s", p.log)
		}
	})
	return p
}

// signal sends it a signal.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for its end and gives its exit status.
func (p *process) end(within time.Duration) int {
	p.t.Helper()
	select {
	case err := <-p.ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		if err != nil {
			p.t.Fatal(err)
		}
		return 0
	case <-time.After(within):
		p.t.Fatalf("the appliance still runs %v after it was told to stop:\n%s", within, p.log)
	}
	return -1
}

// stop drains it, which must end well.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.end(30 * time.Second); code != exitOK {
		p.t.Errorf("got exit status %d from a drain, want 0:\n%s", code, p.log)
	}
}

// run runs a command of the appliance on the box to its end.
func (r *rig) run(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	return r.runWith("", args...)
}

// runWith is run with standard input.
func (r *rig) runWith(stdin string, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	cmd := r.appliance(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := r.box.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// dial connects a client through the appliance.
func (r *rig) dial(addr string) *net.TCPConn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	c, err := r.client.Dial(ctx, "tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// eventually waits until ok is true.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v still not so: %s", within, what)
		}
	}
}

// exchange sends a line and wants the answer.
func exchange(t testing.TB, c net.Conn, send, want string) {
	t.Helper()
	if _, err := fmt.Fprint(c, send); err != nil {
		t.Fatalf("send %q: %v", send, err)
	}
	buf := make([]byte, len(want))
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for n < len(buf) {
		k, err := c.Read(buf[n:])
		n += k
		if err != nil {
			t.Fatalf("got %q and %v, want %q", buf[:n], err, want)
		}
	}
	if got := string(buf); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// polite makes a client that closes as soon as it sees its server's FIN. What it
// saw comes through the channel: nil is FIN.
func polite(t testing.TB, c net.Conn) <-chan error {
	saw := make(chan error, 1)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := io.Copy(io.Discard, c)
		saw <- errors.Join(err, c.Close())
	}()
	return saw
}

func contains(t testing.TB, what, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s: got\n%s\nwant %q in it", what, text, want)
		}
	}
}
