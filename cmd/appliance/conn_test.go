package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
)

// connsOf lists what a filter takes.
func (r *rig) connsOf(args ...string) []services.Row {
	r.t.Helper()
	stdout, stderr, code := r.run(append([]string{"conns", "--json"}, args...)...)
	if code != 0 {
		r.t.Fatalf("conns %v: exit status %d, %s", args, code, stderr)
	}
	var rows []services.Row
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil {
		r.t.Fatal(err)
	}
	return rows
}

// tell runs a command and checks its status and that it says all of that.
func (r *rig) tell(want int, args []string, says ...string) {
	r.t.Helper()
	stdout, stderr, code := r.run(args...)
	if code != want {
		r.t.Errorf("%v: exit status %d, want %d: %s%s", args, code, want, stdout, stderr)
	}
	for _, text := range says {
		if !strings.Contains(stdout+stderr, text) {
			r.t.Errorf("%v does not say %q:\n%s%s", args, text, stdout, stderr)
		}
	}
}

// eventually polls the connections until a filter takes so many.
func (r *rig) eventually(n int, filter ...string) []services.Row {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // a poll with a deadline
		rows := r.connsOf(filter...)
		if len(rows) == n {
			return rows
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d connections are %v, want %d", len(rows), filter, n)
		}
	}
}

// The operator's way with one connection: find it, look into it, ask its peers,
// end it, and read afterwards how it went. It is the same whatever carries it.
func TestAConnectionIsFoundProbedKilledAndExplained(t *testing.T) {
	carriers := []string{"direct", "splice", "relay"}
	if testing.Short() {
		carriers = carriers[:1]
	}
	for _, by := range carriers {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			findProbeKill(t, by)
		})
	}
}

func findProbeKill(t *testing.T, by string) {
	r := newRig(t, &lab.Impairment{})
	labtest.Echo(t, r.backend, "10.0.0.21:80")
	r.configure(`policies: {brisk: {fin_wait2: 2s}}
services:
  web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"], forwarding: ` + by + `}
  echo: {type: echo, listen: "wan0:7", policy: brisk}
`)
	p := r.start()
	if by == "direct" { // the way to a backend is known once a connection was there
		first := r.dial("192.0.2.10:80")
		exchange(t, first, "ping", "ping")
		r.eventually(1, "carrier", "splice")
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		r.eventually(0, "service", "web")
	}
	web, echo := r.dial("192.0.2.10:80"), r.dial("192.0.2.10:7")
	for _, c := range []io.ReadWriter{web, echo} {
		if _, err := io.WriteString(c, "ping"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	rows := r.eventually(1, "service", "web", "and", "state", "established", "and", "client", "192.0.2.0/24", "dst", ":80", "carrier", by)
	id := fmt.Sprint(rows[0].ID)
	if o := rows[0].ClientLife.Options; !o.Seen || !o.SACK || o.SndMSS != 1460 {
		t.Errorf("the client's options are %+v", o)
	}
	if timers := rows[0].ClientInfo.Timers; len(timers) == 0 || timers[0].Name != "keepalive" {
		t.Errorf("the timers %+v run, want keepalive", timers)
	}
	if got := r.eventually(1, "not", "service", "web"); got[0].Policy != "brisk" {
		t.Errorf("the other connection has policy %s, want brisk", got[0].Policy)
	}
	r.tell(0, []string{"conns"}, "wscale:", "timer:(keepalive", "brisk", by)
	because := map[string]string{"relay": "forwarding: relay", "splice": "forwarding: splice"}[by]
	r.tell(0, []string{"conns", "--wide"}, "WHY NOT CHEAPER", because)
	r.tell(0, []string{"conn", "why", id}, "Carrier: "+by, because)
	if by != "relay" {
		r.tell(0, []string{"status"}, "web carries: "+by+" 1")
	}
	r.tell(0, []string{"conn", "probe", id}, "client: alive", "backend: alive")
	r.tell(0, []string{"conn", "why", id}, "lives", "ESTABLISHED/ESTABLISHED", "timers: keepalive in", "agreed: MSS 1460")
	r.tell(2, []string{"conn", "why", "no-number"}, "is no connection's ID")
	r.tell(1, []string{"conn", "kill", "999999"}, "no connection 999999")
	r.tell(2, []string{"conns", "state", "half-open"}, "no state has that name", "time-wait")

	r.wan.Cut()
	r.tell(1, []string{"conn", "probe", id}, "client: dead: no answer to 3 segments", "backend: alive")
	r.wan.Mend()

	r.tell(0, []string{"conn", "kill", id}, "FIN goes to both sides of connection "+id)
	if _, err := io.ReadAll(deadline(t, web)); err != nil {
		t.Errorf("the client is told %v, want FIN", err)
	}
	if err := web.Close(); err != nil {
		t.Fatal(err)
	}
	r.eventually(0, "service", "web")
	r.tell(0, []string{"conn", "why", id}, "the operator ended it (killed)", "First to end it: the appliance, by FIN", "our FIN went first",
		"our FIN was acknowledged", "ESTABLISHED (after", "FIN-WAIT-1 (after", "TIME-WAIT (after")
	r.tell(0, []string{"conn", "why", id}, "Carrier: "+by, because)
	r.tell(0, []string{"conns", "--closed", "reason", "killed", "carrier", by}, "killed", "yes/yes", by)
	r.tell(0, []string{"conns", "state", "time-wait"}, "held by no service any more", "TIME-WAIT")

	other := fmt.Sprint(r.eventually(1, "service", "echo")[0].ID)
	r.tell(0, []string{"conn", "kill", "--rst", other}, "RST went to both sides")
	if _, err := io.ReadAll(deadline(t, echo)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the other client is told %v, want a reset", err)
	}
	r.tell(0, []string{"status"}, "web ended: ", "killed 1", "TIME-WAIT")
	p.stop()
}

// A listing that is shown again and again: a line of JSON for each round.
func TestWatchShowsTheConnectionsAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, &lab.Impairment{})
	r.configure(`services: {echo: {type: echo, listen: "wan0:7"}}
`)
	p := r.start()
	c := r.dial("192.0.2.10:7")
	r.eventually(1)
	cmd := r.appliance("conns", "--watch", "--every", "100ms", "--json", "service", "echo")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := json.NewDecoder(out)
	for range 3 {
		var rows []services.Row
		if err := lines.Decode(&rows); err != nil || len(rows) != 1 {
			t.Fatalf("a round shows %d connections, %v; want 1", len(rows), err)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("^C ends it with %v", err)
	}
	r.tell(2, []string{"conns", "--watch", "--every", "1ms"}, "too often")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	p.stop()
}
