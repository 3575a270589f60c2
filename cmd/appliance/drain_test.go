package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
)

const twoBackends = `services:
  web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80", "10.0.0.22:80"], forwarding: FORWARDING}
  echo: {type: echo, listen: "wan0:7"}
drain: {deadline: 400ms, fin_grace: 2s, profiles: {backend: {deadline: 300ms, spread: 200ms}}}
`

// browse asks for pages over kept-alive connections until ctx ends. Go's client
// asks again when a kept connection was closed before the answer, as browsers
// and proxies do; everything else counts as a failure.
//
// The site has the addresses given; a client that cannot connect to one tries the
// next, as those do that look up a name. browse reports fewer than 2,000 requests
// a second as a failure of the test.
func (r *rig) browse(ctx context.Context, workers int, addrs ...string) (done func() (requests, failures int64, first error)) {
	r.t.Helper()
	began := time.Now()
	var turn atomic.Int64
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: workers,
		DialContext: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
			begin := int(turn.Add(1))
			for i := range addrs {
				if c, err = r.client.Dial(ctx, network, addrs[(begin+i)%len(addrs)]); err == nil {
					break
				}
			}
			return c, err
		},
	}}
	var requests, failures atomic.Int64
	var first atomic.Pointer[error]
	var owned sync.WaitGroup
	for range workers {
		owned.Go(func() {
			for ctx.Err() == nil {
				res, err := client.Get("http://192.0.2.10/bytes?n=2000")
				if err == nil {
					var n int64
					n, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err == nil && n != 2000 {
						err = fmt.Errorf("%d bytes of 2000", n)
					}
				}
				requests.Add(1)
				if err != nil && ctx.Err() == nil {
					failures.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	return func() (int64, int64, error) {
		owned.Wait()
		client.CloseIdleConnections()
		if rate := float64(requests.Load()) / time.Since(began).Seconds(); rate < 2000 {
			r.t.Errorf("%.0f requests a second, want 2000", rate)
		}
		var err error
		if p := first.Load(); p != nil {
			err = *p
		}
		return requests.Load(), failures.Load(), err
	}
}

// Backends that drain and come back, one after the other, under load: no
// request fails.
func TestBackendsDrainUnderLoadAndNoRequestFails(t *testing.T) {
	byEachCarrier(t, backendsDrain)
}

func backendsDrain(t *testing.T, forwarding string) {
	r := newRig(t, nil)
	for _, addr := range []string{"10.0.0.21:80", "10.0.0.22:80"} {
		labtest.Web(t, r.backend, addr)
	}
	r.configure(strings.Replace(twoBackends, "FORWARDING", forwarding, 1))
	p := r.start()
	ctx, cancel := context.WithCancel(t.Context())
	done := r.browse(ctx, 8, "192.0.2.10:80")
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for i := range rounds {
		backend := fmt.Sprintf("10.0.0.%d:80", 21+i%2)
		stdout, stderr, code := r.run("drain", backend, "--wait")
		if code == exitReset || code == exitUnacked {
			t.Errorf("drain %d: status %d: %s", i, code, stdout)
		} else if code != exitOK {
			t.Fatalf("drain %s: status %d, %s%s", backend, code, stdout, stderr)
		}
		rows, err := r.admin.Conns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if row.Backend.String() == backend && row.Stage == services.Relaying.String() {
				t.Errorf("connection %d still goes to %s", row.ID, backend)
			}
		}
		if _, stderr, code := r.run("undrain", backend); code != exitOK {
			t.Fatalf("undrain %s: status %d, %s", backend, code, stderr)
		}
	}
	cancel()
	requests, failures, first := done()
	t.Logf("%d requests during %d drains", requests, rounds)
	if failures > 0 || requests < int64(rounds) {
		t.Errorf("%d of %d requests failed, the first: %v", failures, requests, first)
	}
	p.stop()
}

// A site behind two services, each of which drains and comes back by turns: a
// client that is refused by one has the other, and no request fails.
func TestServicesDrainUnderLoadAndNoRequestFails(t *testing.T) {
	byEachCarrier(t, servicesDrain)
}

func servicesDrain(t *testing.T, forwarding string) {
	r := newRig(t, nil)
	for _, addr := range []string{"10.0.0.21:80", "10.0.0.22:80"} {
		labtest.Web(t, r.backend, addr)
	}
	r.configure(`services:
  one: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80", "10.0.0.22:80"], forwarding: ` + forwarding + `}
  two: {type: proxy, listen: "wan0:81", backends: ["10.0.0.22:80", "10.0.0.21:80"], forwarding: ` + forwarding + `}
drain: {deadline: 300ms, fin_grace: 2s}
`)
	p := r.start()
	ctx, cancel := context.WithCancel(t.Context())
	done := r.browse(ctx, 8, "192.0.2.10:80", "192.0.2.10:81")
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	ended := 0
	for i := range rounds {
		name := []string{"one", "two"}[i%2]
		stdout, stderr, code := r.run("drain", name, "--wait", "--json")
		var rows []services.DrainRow
		if code != exitOK || json.Unmarshal([]byte(stdout), &rows) != nil || len(rows) != 1 {
			t.Fatalf("drain %s: status %d, %s%s", name, code, stdout, stderr)
		}
		ended += rows[0].Clean
		live, err := r.admin.Conns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range live {
			if row.Service == name {
				t.Errorf("connection %d is still of %s", row.ID, name)
			}
		}
		if _, stderr, code := r.run("undrain", name); code != exitOK {
			t.Fatalf("undrain %s: status %d, %s", name, code, stderr)
		}
	}
	cancel()
	requests, failures, first := done()
	t.Logf("%d requests during %d drains, which ended %d connections", requests, rounds, ended)
	if failures > 0 || requests < int64(rounds) || ended < rounds {
		t.Errorf("%d of %d requests failed, the first: %v; %d connections were ended", failures, requests, first, ended)
	}
	p.stop()
}

func TestDrainingAServiceAndItsReport(t *testing.T) {
	r := newRig(t, nil)
	labtest.Web(t, r.backend, "10.0.0.21:80")
	labtest.Web(t, r.backend, "10.0.0.22:80")
	r.configure(strings.Replace(twoBackends, "FORWARDING", "auto", 1))
	p := r.start()
	clean := r.dial("192.0.2.10:80")
	exchange(t, clean, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK")
	ended := polite(t, clean)
	rude := r.dial("192.0.2.10:80")
	exchange(t, rude, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK")
	time.Sleep(2 * services.Quiet)

	stdout, stderr, code := r.run("drain", "plan", "web")
	if code != exitOK {
		t.Errorf("plan: status %d, %s", code, stderr)
	}
	contains(t, "the plan", stdout, "web: 2 connections, 2 of them quiet", "+0s  2 quiet connections get FIN", "+400ms", "+2.4s")
	stdout, stderr, code = r.run("drain", "web", "--wait")
	if code != exitReset {
		t.Errorf("status %d, want %d, since one client never closes: %s%s", code, exitReset, stdout, stderr)
	}
	contains(t, "the progress", stdout, "web: draining, ", "web: drained, 0 left, 1 clean, 1 reset, 0 unacked")
	if err := <-ended; err != nil {
		t.Errorf("the client that closed saw %v", err)
	}
	if c, err := r.client.Dial(t.Context(), "tcp", "192.0.2.10:80"); err == nil {
		t.Errorf("a new connection to the drained service: %v", c.Close())
	}
	echo := r.dial("192.0.2.10:7")
	exchange(t, echo, "hello\n", "hello\n") // the other service goes on

	stdout, _, _ = r.run("drain")
	contains(t, "the drains", stdout, "web", "maintenance", "drained")
	stdout, _, _ = r.run("status")
	contains(t, "status", stdout, "web", "draining")
	stdout, _, _ = r.run("drain", "report", "web")
	contains(t, "the report", stdout, "1 clean, 1 reset", "us fin", "clean", "reset")
	for _, wrong := range []struct {
		args []string
		want string
	}{
		{[]string{"drain", "web"}, "drains already, since"},
		{[]string{"drain", "nobody"}, `nothing here is called "nobody"; there are the services web, echo, the backends 10.0.0.21:80, 10.0.0.22:80`},
		{[]string{"drain", "web/10.9.9.9:80"}, "nothing here is called"},
		{[]string{"drain", "echo", "--all"}, "exclude each other"},
		{[]string{"drain", "echo", "--profile", "fast"}, `no drain profile "fast"`},
		{[]string{"undrain", "echo"}, "undrain echo: it does not drain"},
		{[]string{"undrain"}, "name what to undrain"},
	} {
		stdout, stderr, code := r.run(wrong.args...)
		if code == exitOK || !strings.Contains(stderr, wrong.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d, %s%s; want one line with %q", wrong.args, code, stdout, stderr, wrong.want)
		}
	}
	exchange(t, echo, "still\n", "still\n")
	if _, stderr, code := r.run("undrain", "web"); code != exitOK {
		t.Errorf("undrain: status %d, %s", code, stderr)
	}
	again := r.dial("192.0.2.10:80")
	exchange(t, again, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK")
	polite(t, again)
	polite(t, echo)
	stdout, stderr, code = r.run("drain", "--stop", "--wait")
	if code != exitOK || !strings.Contains(stdout, "stopped in ") || strings.Contains(stdout, "1 reset") {
		t.Errorf("drain --stop: status %d, which is not that of the drains before: %s%s", code, stdout, stderr)
	}
	if code := p.end(20 * time.Second); code != exitOK {
		t.Errorf("the appliance ended with %d", code)
	}
	stdout, _, _ = r.run("drain", "report")
	contains(t, "the report it left", stdout, "web (shutdown)", "1 clean, 0 reset", "after ")
	if _, err := r.admin.Drains(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("it still answers: %v", err)
	}
}

func TestBarsOfADrainStayOnTheirLines(t *testing.T) {
	rows := []services.DrainRow{
		{Target: services.Target{Service: "web"}, State: "draining", Left: 10, Clean: 5, Took: 1234 * time.Millisecond, Closes: 6600 * time.Millisecond},
		{Target: services.Target{Service: "web", Backend: "[2001:db8::1234:5678]:8443"}, State: "drained", Clean: 120, Reset: 3, Took: 2 * time.Second},
	}
	for _, cols := range []int{30, 80, 120, 200} {
		var out strings.Builder
		if n := drawBars(&out, rows, 2, cols); n != 2 {
			t.Fatalf("%d lines, want 2", n)
		}
		text, up := strings.CutPrefix(out.String(), "\x1b[2A")
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if !up || len(lines) != 2 {
			t.Fatalf("drawn is %q, want two lines over those of before", out.String())
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(strings.TrimPrefix(line, "\x1b[2K")); n >= cols {
				t.Errorf("a line of %d in %d columns: %q", n, cols, line)
			}
		}
		if cols >= 120 && !(strings.Contains(lines[0], "[#") && strings.HasSuffix(lines[0], "10 left, 5 clean, 0 reset, 0 unacked, 1.2s, deadline in 6.6s")) {
			t.Errorf("in %d columns the first line is %q", cols, lines[0])
		}
	}
}
