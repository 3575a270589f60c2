package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// quickPolicy notices the dead within seconds.
const quickPolicy = `policies:
  default:
    keepalive: {idle: 1s, interval: 1s, probes: 2}
    user_timeout: 3s
    zero_window: 3s
    half_close: 2s
    fin_wait2: 2s
`

// soon is when a policy of seconds must have acted, on a machine that is busy.
const soon = 20 * time.Second

// deadRig is a rig whose backend can be unplugged.
type deadRig struct {
	*rig
	lan *lab.ImpairedLink
}

func newDeadRig(t *testing.T) *deadRig {
	t.Helper()
	r := &rig{t: t, client: labtest.Host(t, "client"), box: labtest.Host(t, "box"), backend: labtest.Host(t, "backend"), dir: t.TempDir()}
	r.file, r.socket = filepath.Join(r.dir, "appliance.yaml"), filepath.Join(r.dir, "a.sock")
	r.admin = admin.NewClient(r.socket)
	r.wan = labtest.WireImpaired(t, r.client, "c0", r.box, "wan0", lab.Impairment{})
	lan := labtest.WireImpaired(t, r.backend, "b0", r.box, "lan0", lab.Impairment{})
	labtest.Addr(t, r.client, "c0", "192.0.2.2/24", "2001:db8::2/64")
	labtest.Addr(t, r.backend, "b0", "10.0.0.21/24", "10.0.0.22/24", "fd00:10::21/64")
	return &deadRig{r, lan}
}

// backendProcess runs an echo server as a process of its own on the backend,
// which can be killed and stopped.
func (r *deadRig) backendProcess(addr string) *os.Process {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LASTACK_LAB_ECHO="+addr)
	in, err := cmd.StdinPipe() // the server ends with its input
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	labtest.Start(r.t, r.backend, cmd)
	r.t.Cleanup(func() { in.Close() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		r.t.Fatalf("the backend did not start: %v", err)
	}
	return cmd.Process
}

// signal sends a process a signal; one that stops it has when signal returns.
func (r *deadRig) signal(p *os.Process, s syscall.Signal) {
	r.t.Helper()
	if err := p.Signal(s); err != nil {
		r.t.Fatal(err)
	}
	if s == syscall.SIGSTOP {
		eventually(r.t, soon, "the process stands still", func() bool { return stands(r.t, p.Pid) })
	}
}

// stands reports whether every thread of a process is stopped, see proc(5).
func stands(t testing.TB, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("got %d threads and %v", len(threads), err)
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

// told waits until the client's connection ends and says how: nil is FIN.
func told(t *testing.T, c net.Conn) error {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for {
		_, err := c.Read(buf)
		switch {
		case err == nil:
		case err.Error() == "EOF":
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("after %v the client still knows nothing", soon)
		default:
			return err
		}
	}
}

// toldReset wants the client's connection reset.
func toldReset(t *testing.T, c net.Conn) {
	t.Helper()
	if err := told(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
}

// ended waits for the newest record of a service and wants one of the reasons.
func (r *deadRig) ended(service string, reasons ...services.Reason) services.Ended {
	r.t.Helper()
	var found services.Ended
	eventually(r.t, soon, "a connection of "+service+" is in the ledger", func() bool {
		all, err := r.admin.Ended(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range all {
			if e.Service == service {
				found = e
				return true
			}
		}
		return false
	})
	for _, want := range reasons {
		if found.Reason == want {
			return found
		}
	}
	r.t.Errorf("%s ended with %s (%s), want one of %v", service, found.Reason, found.Detail, reasons)
	return found
}

// goesOn wants the appliance to serve others: by itself, and by the backend if
// that is said to live.
func (r *deadRig) goesOn(addr string) {
	r.t.Helper()
	c := r.dial(addr)
	exchange(r.t, c, "others\n", "others\n")
	if err := c.Close(); err != nil {
		r.t.Error(err)
	}
}

// row waits for the one live connection of a service that is as wanted.
func (r *deadRig) row(service, what string, ok func(services.Row) bool) services.Row {
	r.t.Helper()
	var found services.Row
	eventually(r.t, soon, what, func() bool {
		rows, err := r.admin.Conns(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, row := range rows {
			if row.Service == service && ok(row) {
				found = row
				return true
			}
		}
		return false
	})
	return found
}
