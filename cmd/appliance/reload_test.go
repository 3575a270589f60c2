package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// Reloads under load that change timeouts, policies, backends and other services
// by turns: no request fails, no connection of an unchanged service is touched.
func TestReloadsUnderLoadAndNoRequestFails(t *testing.T) {
	byEachCarrier(t, reloads)
}

func reloads(t *testing.T, forwarding string) {
	r := newRig(t, nil)
	for _, addr := range []string{"10.0.0.21:80", "10.0.0.22:80"} {
		labtest.Web(t, r.backend, addr)
	}
	conf := func(i int) string {
		backends := []string{`"10.0.0.21:80", "10.0.0.22:80"`, `"10.0.0.22:80"`, `"10.0.0.21:80"`, `"10.0.0.22:80", "10.0.0.21:80"`}
		text := fmt.Sprintf(`policies: {web: {half_close: %ds}}
services:
  web: {type: proxy, listen: "wan0:80", backends: [%s], policy: web, connect_timeout: %ds, max_conns: %d, forwarding: %s}
  echo: {type: echo, listen: "wan0:7"}
`, 60+i, backends[i%4], 1+i%5, 1000+i, forwarding)
		if i%3 == 1 {
			text += `  discard: {type: discard, listen: ["wan0:9", "wan0:10"]}` + "\n"
		}
		return text + "drain: {deadline: 200ms, fin_grace: 1s}\n"
	}
	r.configure(conf(0))
	p := r.start()
	untouched := r.dial("192.0.2.10:7")
	exchange(t, untouched, "before\n", "before\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := r.browse(ctx, 8, "192.0.2.10:80")
	rounds := 50
	if testing.Short() {
		rounds = 8
	}
	for i := 1; i <= rounds; i++ {
		r.configure(conf(i))
		if i%2 == 0 {
			p.signal(syscall.SIGHUP)
			eventually(t, 5*time.Second, "SIGHUP reloads", func() bool {
				d, err := r.admin.ConfigDiff(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return len(d.Changes) == 0
			})
			continue
		}
		if stdout, stderr, code := r.run("reload"); code != exitOK || !strings.Contains(stdout, "in force") {
			t.Fatalf("reload %d: status %d, %s%s", i, code, stdout, stderr)
		}
	}
	cancel()
	requests, failures, first := done()
	t.Logf("%d requests during %d reloads", requests, rounds)
	if failures > 0 || requests < int64(rounds) {
		t.Errorf("%d of %d requests failed, the first: %v", failures, requests, first)
	}
	exchange(t, untouched, "after\n", "after\n")
	polite(t, untouched)
	p.stop()
}

func TestAReloadChangesWhatItSaysAndNothingElse(t *testing.T) {
	r := newRig(t, nil)
	labtest.Web(t, r.backend, "10.0.0.21:80")
	const services = `services:
  web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"], policy: p}
  echo: {type: echo, listen: "wan0:7"}
`
	r.configure("policies: {p: {half_close: 4m}}\n" + services)
	p := r.start()
	web, echo := r.dial("192.0.2.10:80"), r.dial("192.0.2.10:7")
	get(t, web)
	exchange(t, echo, "one\n", "one\n")

	stdout, stderr, code := r.run("config", "diff")
	if code != exitOK || !strings.Contains(stdout, "nothing changes") {
		t.Errorf("diff of nothing: status %d, %s%s", code, stdout, stderr)
	}
	// What is wrong, or needs a restart, changes nothing.
	for _, wrong := range []struct{ text, want string }{
		{"policies: {p: {half_close: 4m}}\nservices:\n  web: {type: proxy, listne: x}\n", "appliance.yaml:6:22"},
		{"policies: {p: {half_close: 4m}}\n" + services + "state: {journal: off}\n", "state.journal changes, which needs a restart"},
	} {
		r.configure(wrong.text)
		if _, stderr, code := r.run("reload"); code == exitOK || !strings.Contains(stderr, wrong.want) {
			t.Errorf("status %d, %q; want %q", code, stderr, wrong.want)
		}
		exchange(t, echo, "two\n", "two\n")
	}
	// echo gives way to discard at its place, and moves; web's policy changes.
	r.configure(`policies: {p: {half_close: 3m}}
services:
  web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"], policy: p}
  echo: {type: echo, listen: "wan0:8"}
  discard: {type: discard, listen: "wan0:7"}
`)
	stdout, stderr, code = r.run("config", "diff")
	if code != exitOK {
		t.Errorf("diff: status %d, %s", code, stderr)
	}
	contains(t, "the diff", stdout, "- policies.p.half_close: 4m", "+ policies.p.half_close: 3m", "1 live connection",
		"- services.echo.listen: ['wan0:7']", "+ services.echo.listen: ['wan0:8']", "+ services.discard.type: discard", "to come")
	if _, stderr, code := r.run("reload"); code != exitOK {
		t.Fatalf("reload: status %d, %s", code, stderr)
	}
	exchange(t, echo, "three\n", "three\n") // the connection has stayed, its listener has gone
	moved := r.dial("192.0.2.10:8")
	exchange(t, moved, "here\n", "here\n")
	other := r.dial("192.0.2.10:7")
	if _, err := other.Write([]byte("nobody answers\n")); err != nil {
		t.Error(err)
	}
	if err := other.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := other.Read(make([]byte, 10)); n > 0 || !os.IsTimeout(err) {
		t.Errorf("discard answers with %d bytes, %v", n, err)
	}
	get(t, web)

	// A service that is removed drains: its quiet connection ends, its place is free.
	r.configure("policies: {p: {half_close: 3m}}\n" + `services:
  web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"], policy: p}
`)
	ended := polite(t, moved)
	for _, c := range []interface{ Close() error }{echo, other} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, stderr, code := r.run("reload"); code != exitOK {
		t.Fatalf("reload: status %d, %s", code, stderr)
	}
	if err := <-ended; err != nil {
		t.Errorf("a client of the removed service saw %v", err)
	}
	eventually(t, 5*time.Second, "the removed services are gone", func() bool {
		s, err := r.admin.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Services) == 1
	})
	if c, err := r.client.Dial(t.Context(), "tcp", "192.0.2.10:8"); err == nil {
		t.Errorf("somebody still listens there: %v", c.Close())
	}
	get(t, web)
	polite(t, web)
	p.stop()
}

// A changed policy acts on connections that live: the table's bounds at once, and
// those that services look at.
func TestAReloadActsOnLiveConnections(t *testing.T) {
	byEachCarrier(t, reloadActs)
}

func reloadActs(t *testing.T, forwarding string) {
	t.Parallel()
	r := newRig(t, nil)
	done := make(chan struct{})
	server, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:9", func(c net.Conn) error {
		_, err := io.Copy(io.Discard, c)
		<-done // it never answers
		return ignoreReset(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	defer close(done)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	const text = `policies: {p: {half_close: HALF}}
services:
  half: {type: proxy, listen: "wan0:9", backends: ["10.0.0.21:9"], policy: p, forwarding: BY}
  idle: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"], idle_timeout: IDLE, forwarding: BY}
`
	conf := func(half, idle string) {
		r.configure(strings.NewReplacer("HALF", half, "IDLE", idle, "BY", forwarding).Replace(text))
	}
	conf("1h", "1h")
	p := r.start()
	half, idle := r.dial("192.0.2.10:9"), r.dial("192.0.2.10:7")
	exchange(t, idle, "hello\n", "hello\n")
	if _, err := half.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	closeWrite(t, half)
	conf("1s", "1s")
	stdout, stderr, code := r.run("reload")
	if code != exitOK || strings.Count(stdout, "1 live connection") != 2 {
		t.Fatalf("status %d, %s%s", code, stdout, stderr)
	}
	for name, c := range map[string]net.Conn{"half closed": half, "idle": idle} {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); os.IsTimeout(err) {
			t.Errorf("the %s connection goes on", name)
		}
		c.Close()
	}
	reasons := map[string]string{}
	eventually(t, 10*time.Second, "both are known to have ended", func() bool {
		all, err := r.admin.Ended(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			reasons[e.Service] = e.Reason.String()
		}
		return len(reasons) == 2
	})
	if reasons["half"] != "half_close_timeout" || reasons["idle"] != "idle_timeout" {
		t.Errorf("they ended for %v", reasons)
	}
	p.stop()
}

// get asks for a page on a connection that is kept.
func get(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %s, %v", res.Status, err)
	}
}

// apply, confirm, its absence, rollback and the history.
func TestAnAppliedConfigurationIsConfirmedOrTakenBack(t *testing.T) {
	r := newRig(t, nil)
	with := func(port string) string {
		return interfacesYAML + "services: {echo: {type: echo, listen: \"wan0:" + port + "\"}}\nadmin: {socket: " + r.socket + "}\n"
	}
	r.configure("services: {echo: {type: echo, listen: \"wan0:7\"}}\n")
	original, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	p := r.start()
	next := filepath.Join(r.dir, "next.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	isFile := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(r.file); err != nil || string(got) != want {
			t.Errorf("the appliance's file is %q, %v; want %q", got, err, want)
		}
	}
	command := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, code := r.run(args...)
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Fatalf("%v: status %d, %s%s; want %q", args, code, stdout, stderr, want)
		}
	}
	refused := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, code := r.run(args...)
		if code == exitOK || !strings.Contains(stderr, want) {
			t.Errorf("%v: status %d, %s%s; want %q", args, code, stdout, stderr, want)
		}
	}
	answers := func(port string) bool {
		c, err := r.client.Dial(t.Context(), "tcp", "192.0.2.10:"+port)
		if err != nil {
			return false
		}
		defer c.Close()
		exchange(t, c, "hello\n", "hello\n")
		return true
	}
	refused("no change waits", "config", "confirm")
	refused("no change waits", "config", "rollback")
	refused("no such configuration", "config", "rollback", "9")
	write("nonsense: true\n")
	refused("next.yaml:1:1", "config", "apply", next)

	// Not confirmed: taken back, and the file never knew.
	write(with("8"))
	command("confirm within 4s", "config", "apply", next, "--confirm", "4s")
	if !answers("8") {
		t.Error("what was applied is not in force")
	}
	isFile(string(original))
	eventually(t, 10*time.Second, "it is taken back", func() bool { return answers("7") })
	if answers("8") {
		t.Error("what was taken back still answers")
	}
	// Rolled back by order, and confirmed.
	command("confirm within 1m", "config", "apply", next, "--confirm", "1m")
	refused("waits until", "config", "apply", next)
	refused("waits until", "reload")
	command("in force", "config", "rollback")
	command("in force", "config", "apply", "--confirm", "1m", next)
	command("confirmed", "config", "confirm")
	isFile(with("8"))
	write(with("9"))
	command("in force", "config", "apply", next)
	isFile(with("9"))
	command("wan0:9", "config", "show")
	stdout, _, _ := r.run("config", "history")
	contains(t, "the history", stdout, "1  ", "start", "2  ", "3  ", "apply")
	command("the oldest that is kept", "config", "history", "1")
	stdout, _, _ = r.run("config", "history", "3")
	contains(t, "what the third changed", stdout, "3, in force since ", ", by apply", "- services.echo.listen: ['wan0:8']", "+ services.echo.listen: ['wan0:9']", "1 change since number 2")
	refused("no such configuration is kept: number 9", "config", "history", "9")
	command("in force", "config", "rollback", "1")
	isFile(string(original))
	if !answers("7") || answers("9") {
		t.Error("the first configuration is not in force")
	}
	stdout, _, _ = r.run("config", "history")
	contains(t, "the history", stdout, "4  ", "rollback to 1")
	p.stop()
}
