package main

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

const deadServices = `services:
  web: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}
  beat: {type: proxy, listen: "wan0:8", backends: ["10.0.0.21:7"], heartbeat: {idle: 1s, send: "PING\n", expect: "PING\n", timeout: 2s}}
  own: {type: echo, listen: "wan0:9"}
drain: {announce: 0s, deadline: 1s, fin_grace: 1s}
`

// started is a rig with a backend in a process of its own, the appliance, and
// a client that has exchanged a line with the backend.
func (r *deadRig) started(addr string) (p *process, backend backendSignals, c *net.TCPConn) {
	r.t.Helper()
	r.configure(quickPolicy + deadServices)
	server := r.backendProcess("10.0.0.21:7")
	p = r.start()
	c = r.dial(addr)
	exchange(r.t, c, "hello\n", "hello\n")
	return p, func(s syscall.Signal) { r.t.Helper(); r.signal(server, s) }, c
}

// backendSignals sends the backend's process a signal.
type backendSignals func(syscall.Signal)

// The kernel of a killed process sends FIN for it: the client reads the end.
func TestABackendKilledWhileIdleEndsItsClientsWithFIN(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	p, backend, c := r.started("192.0.2.10:7")
	backend(syscall.SIGKILL)
	if err := told(t, c); err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if e := r.ended("web", services.Finished); e.First.Who != "backend" || e.First.How != services.ByFIN {
		t.Errorf("first was %s by %s, want the backend by fin", e.First.Who, e.First.How)
	}
	r.goesOn("192.0.2.10:9")
	p.stop()
}

// With data that it has not read its kernel sends RST, which passes as RST: the
// client must not take a cut answer for a whole one.
func TestABackendKilledWithUnreadDataResetsItsClients(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	p, backend, c := r.started("192.0.2.10:7")
	backend(syscall.SIGSTOP)
	if _, err := c.Write([]byte("never read")); err != nil {
		t.Fatal(err)
	}
	r.row("web", "the backend's kernel has acknowledged the bytes", func(row services.Row) bool {
		return row.ToBackend == int64(len("hello\nnever read")) && row.BackendInfo.Unacked == 0
	})
	backend(syscall.SIGKILL)
	toldReset(t, c)
	r.ended("web", services.BackendReset)
	r.goesOn("192.0.2.10:9")
	p.stop()
}

func TestABackendUnpluggedWhileIdleIsNoticedByKeepalive(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	_, _, c := r.started("192.0.2.10:7")
	begin := time.Now()
	r.lan.Cut()
	toldReset(t, c)
	if took := time.Since(begin); took < 1500*time.Millisecond {
		t.Errorf("told after %v, want the time of the probes to pass", took)
	}
	e := r.ended("web", services.BackendKeepalive)
	if e.First.Who != "backend" || e.First.How != services.ByTimeout {
		t.Errorf("first was %s by %s, want the backend by timeout", e.First.Who, e.First.How)
	}
	r.goesOn("192.0.2.10:9")
	r.lan.Mend()
	eventually(t, soon, "the backend is used again", func() bool {
		c := r.dial("192.0.2.10:7")
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return false
		}
		_, err := c.Read(make([]byte, 1))
		return err == nil
	})
}

// With data in flight keepalive does not run: the user timeout ends it. Until
// then the connection's state tells, by API and without reading.
func TestABackendUnpluggedWithDataInFlightIsNoticedByUserTimeout(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	_, _, c := r.started("192.0.2.10:7")
	r.lan.Cut()
	if _, err := c.Write([]byte("into the void\n")); err != nil {
		t.Fatal(err)
	}
	row := r.row("web", "the state shows bytes that nobody acknowledges", func(row services.Row) bool {
		return row.BackendInfo.Unacked > 0 && row.BackendInfo.Backoff > 0
	})
	if row.BackendInfo.State != "ESTABLISHED" || len(row.BackendInfo.Timers) == 0 {
		t.Errorf("the state is %+v, want ESTABLISHED and timers that run", row.BackendInfo)
	}
	toldReset(t, c)
	r.ended("web", services.BackendUserTimeout)
	r.goesOn("192.0.2.10:9")
}

// Its kernel answers keepalive for ever: only a question to the application
// finds out.
func TestAStoppedBackendIsNoticedByHeartbeatAlone(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	p, backend, asked := r.started("192.0.2.10:8")
	plain := r.dial("192.0.2.10:7")
	exchange(t, plain, "hello\n", "hello\n")
	r.row("beat", "a heartbeat was answered, and the answer swallowed", func(row services.Row) bool {
		return row.Idle > 3*time.Second && row.BackendInfo.SegsIn > 4
	})
	backend(syscall.SIGSTOP)
	toldReset(t, asked)
	e := r.ended("beat", services.BackendHeartbeat)
	if e.ToClient != int64(len("hello\n")) {
		t.Errorf("%d bytes reached the client, want no heartbeat among them", e.ToClient)
	}
	r.row("web", "the connection without heartbeat outlives keepalive", func(row services.Row) bool {
		return row.State == "ESTABLISHED/ESTABLISHED" && row.Idle > 5*time.Second
	})
	r.goesOn("192.0.2.10:9")
	backend(syscall.SIGCONT)
	exchange(t, plain, "again\n", "again\n")
	polite(t, plain)
	p.stop()
}

// A stopped backend takes what its kernel has room for; then its window is
// closed, which a probe tells from a peer that is dead.
func TestAStoppedBackendUnderLoadIsNoticedByItsClosedWindow(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	_, backend, c := r.started("192.0.2.10:7")
	backend(syscall.SIGSTOP)
	sent := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 64<<10))
		}
		sent <- err
	}()
	row := r.row("web", "the backend's window is closed", func(row services.Row) bool { return row.BackendLife.ZeroWindow > 0 })
	probed, err := r.admin.Probe(t.Context(), row.ID)
	if err != nil || probed.Backend == nil || probed.Backend.Alive != tcpinfo.NotReading {
		t.Errorf("the probe says %+v, %v; want a backend that is alive and does not read", probed.Backend, err)
	}
	if err := <-sent; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the client's write ended with %v, want a reset", err)
	}
	r.ended("web", services.BackendZeroWindow)
	r.goesOn("192.0.2.10:9")
}
