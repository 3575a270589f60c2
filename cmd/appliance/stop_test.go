package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

const echoProxy = `services: {echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}}
`

// rude connects a client that never answers our FIN.
func rude(t *testing.T, r *rig) *net.TCPConn {
	t.Helper()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "hello\n", "hello\n")
	return c
}

// stream sends without end, until the other side has finished.
func stream(c net.Conn) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// What ends the reading ends the stream, whatever it is.
		_, _ = io.Copy(io.Discard, c)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				return err
			}
		}
	}
}

// Clients that are in the middle of a download when the appliance stops get
// FIN behind what was sent, and every one of those FINs is acknowledged.
func TestStoppingUnderLoadEndsEveryConnectionWithFIN(t *testing.T) {
	const clients = 40
	r := newRig(t, nil)
	server, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:80", stream)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configure(`services: {web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"]}}
drain: {announce: 0s, deadline: 1s, fin_grace: 5s}
`)
	p := r.start()
	seen := labtest.Capture(t, r.client, "c0")
	saw := make([]<-chan error, clients)
	for i := range saw {
		saw[i] = polite(t, r.dial("192.0.2.10:80"))
	}
	eventually(t, 10*time.Second, "every client downloads", func() bool {
		rows, err := r.admin.Conns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, row := range rows {
			if row.ToClient > 0 {
				n++
			}
		}
		return n == clients
	})
	p.signal(syscall.SIGTERM)
	if code := p.end(30 * time.Second); code != exitOK {
		t.Errorf("got exit status %d, want 0:\n%s", code, p.log)
	}
	for i, end := range saw {
		if err := <-end; err != nil {
			t.Errorf("client %d: got %v, want FIN", i, err)
		}
	}
	if err := seen.Close(); err != nil {
		t.Fatal(err)
	}
	if n := seen.Missed(); n > 0 {
		t.Fatalf("the capture missed %d frames", n)
	}
	checkLastACKs(t, seen.Segments(), clients)
}

// checkLastACKs wants a FIN to each client, no RST, and each FIN acknowledged.
func checkLastACKs(t *testing.T, segments []lab.Segment, clients int) {
	t.Helper()
	fins := make(map[netip.AddrPort]uint32) // the acknowledgement that is owed
	acked := make(map[netip.AddrPort]bool)
	for _, s := range segments {
		switch {
		case s.Dst.Port() == 80:
			if owed, ok := fins[s.Src]; ok && s.Flags.Has(lab.ACK) && s.Ack == owed {
				acked[s.Src] = true
			}
		case s.Flags.Has(lab.RST):
			t.Errorf("a client was reset: %v", s)
		case s.Flags.Has(lab.FIN):
			fins[s.Dst] = s.Seq + uint32(s.Len) + 1
		}
	}
	if len(fins) != clients || len(acked) != clients {
		t.Errorf("%d of %d clients were sent FIN, %d acknowledged it", len(fins), clients, len(acked))
	}
}

func TestAClientThatIgnoresFINIsResetAndTheStatusSaysSo(t *testing.T) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy + "drain: {announce: 0s, deadline: 1s, fin_grace: 1s}\n")
	p := r.start()
	c := rude(t, r)
	p.signal(syscall.SIGTERM)
	if code := p.end(15 * time.Second); code != exitReset {
		t.Errorf("got exit status %d, want 3:\n%s", code, p.log)
	}
	contains(t, "log", p.log.String(), "a connection did not end well", c.LocalAddr().String(), "reset=1")
	if _, err := c.Write([]byte("x")); err == nil {
		_, err = c.Read(make([]byte, 1)) // EOF first: the FIN
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v from a connection that was reset", err)
		}
	}
}

func TestTheSecondSIGTERMMakesTheDeadlineNow(t *testing.T) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy + "drain: {announce: 1h, deadline: 1h, fin_grace: 5s}\n")
	p := r.start()
	saw := polite(t, rude(t, r))
	p.signal(syscall.SIGTERM)
	eventually(t, 5*time.Second, "it drains", func() bool { return strings.Contains(p.log.String(), "draining;") })
	select {
	case err := <-saw:
		t.Fatalf("the client got %v while the drain was still being announced", err)
	case err := <-p.ended:
		t.Fatalf("the appliance ended with %v while the drain was still being announced", err)
	case <-time.After(300 * time.Millisecond):
	}
	p.signal(syscall.SIGTERM)
	if err := <-saw; err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
	if code := p.end(10 * time.Second); code != exitOK {
		t.Errorf("got exit status %d, want 0:\n%s", code, p.log)
	}
}

// While a stop is announced everything goes on, and a load balancer that asks is
// told; so it is while all services drain by order.
func TestWhileAStopIsAnnouncedHealthSaysDraining(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configure(`services:
  echo: {type: echo, listen: "wan0:7"}
  health: {type: health, listen: "wan0:8080"}
drain: {announce: 3s, deadline: 1s}
`)
	p := r.start()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: r.client.Dial}}
	health := func() int {
		res, err := client.Get("http://192.0.2.10:8080/healthz")
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	wait := func(want int) {
		t.Helper()
		eventually(t, 2*time.Second, fmt.Sprintf("health says %d", want), func() bool { return health() == want })
	}
	wait(http.StatusOK)
	for _, args := range [][]string{{"drain", "echo", "--wait"}, {"undrain", "echo"}} {
		if _, stderr, code := r.run(args...); code != exitOK {
			t.Fatalf("%v: status %d, %s", args, code, stderr)
		}
		wait(map[string]int{"drain": http.StatusServiceUnavailable, "undrain": http.StatusOK}[args[0]])
	}
	p.signal(syscall.SIGTERM)
	wait(http.StatusServiceUnavailable)
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "hello\n", "hello\n") // new connections are taken as before
	polite(t, c)
	if code := p.end(20 * time.Second); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}

func TestSIGQUITResetsWhatIsLeft(t *testing.T) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy + "drain: {announce: 1h, deadline: 1h, fin_grace: 1h}\n")
	p := r.start()
	saw := polite(t, rude(t, r))
	p.signal(syscall.SIGQUIT)
	if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
	if code := p.end(10 * time.Second); code != exitReset {
		t.Errorf("got exit status %d, want 3:\n%s", code, p.log)
	}
}

// After kill -9 the card can be given back, or taken by the next run.
func TestACrashLeavesACardThatReleaseAndTheNextRunTake(t *testing.T) {
	r := newRig(t, nil)
	labtest.Addr(t, r.box, "wan0", "192.0.2.77/24")
	labtest.Addr(t, r.box, "lan0", "10.0.0.77/24")
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	p := r.start()
	p.signal(syscall.SIGKILL)
	<-p.ended
	out, _, _ := r.run("nic", "list")
	contains(t, "nic list", out, "crashed", "appliance nic release wan0")
	if strings.Contains(out, "192.0.2.77") {
		t.Errorf("the kernel has its address on a card that is still claimed:\n%s", out)
	}
	if out, stderr, code := r.run("nic", "release", "wan0"); code != 0 {
		t.Fatalf("nic release: got exit status %d: %s%s", code, out, stderr)
	}
	out, _, _ = r.run("nic", "list")
	contains(t, "nic list after release", out, "192.0.2.77/24")

	// wan0 is released, lan0 still as the crash left it: both serve again.
	p = r.start()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "again\n", "again\n")
	saw := polite(t, c)
	p.stop()
	if err := <-saw; err != nil {
		t.Errorf("the client got %v at the end, want FIN", err)
	}
	out, _, _ = r.run("nic", "list")
	contains(t, "nic list at the end", out, "192.0.2.77/24", "10.0.0.77/24")
	if _, stderr, code := r.run("nic", "release", "lan0"); code != exitError || !strings.Contains(stderr, "not claimed") {
		t.Errorf("releasing a free card: got exit status %d and %q", code, stderr)
	}
}
