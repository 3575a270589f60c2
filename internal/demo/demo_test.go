package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// build makes the real program.
func build(t *testing.T) string {
	t.Helper()
	labtest.Need(t)
	program := filepath.Join(t.TempDir(), "appliance")
	cmd := exec.Command("go", "build", "-o", program, "../../cmd/appliance")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the appliance: %v\n%s", err, out)
	}
	return program
}

// screen keeps what the demonstration writes, and calls seen at a text.
type screen struct {
	text  bytes.Buffer
	await string
	seen  func()
}

func (s *screen) Write(p []byte) (int, error) {
	n, err := s.text.Write(p)
	if s.seen != nil && strings.Contains(s.String(), s.await) {
		s.seen()
		s.seen = nil
	}
	return n, err
}

func (s *screen) String() string { return s.text.String() }

// ownTemp gives the demonstration an empty directory for temporary files, which
// must be empty again at the end.
func ownTemp(t *testing.T) {
	t.Helper()
	// Short: the path of a socket may be no longer than 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("something is left on disk: %v", err)
		}
	})
}

func TestEveryConnectionIsSeenToItsEnd(t *testing.T) {
	program := build(t)
	ownTemp(t)
	var out screen
	start := time.Now()
	if err := Run(t.Context(), Options{Out: &out, Program: program}); err != nil {
		t.Fatalf("got %v after\n%s", err, out.String())
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("it took %v, want less than 40 s", took)
	}
	for _, want := range []string{
		"appliance.yaml is correct: 3 interfaces, 2 services, 1 policy",
		"wan0 in the kernel before: 192.0.2.10/24",
		"wan0 in the kernel now:    no address",
		"-> hello from web1, asked by 10.0.1.1:",
		"-> hello from web2, asked by 10.0.2.1:",
		"ESTABLISHED/ESTABLISHED",
		"CLOSE-WAIT/FIN-WAIT-2",
		"server -> FIN",
		"connection refused",
		"   200  FIN of the appliance, acknowledged by the client",
		"   200  FIN of the client, acknowledged by the appliance",
		"clean=200 reset=0 unacked=0",
		"wan0 in the kernel: 192.0.2.10/24",
		"200 of 200 clients got their FIN, 0 resets, exit status 0\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", out.String(), want)
		}
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("control characters for what is no terminal: %q", out.String())
	}
	if bars := strings.Count(out.String(), "Gbit/s"); bars > 7 {
		t.Errorf("got %d bars in 5 s for what is no terminal, want one a second", bars)
	}
}

func TestItStopsAndCleansUpWhenItIsAsked(t *testing.T) {
	program := build(t)
	for at, keep := range map[string]bool{"The appliance takes": true, "downloads at once": false, "client -> pear": true, "200 clients:": false, "kill -TERM": false} {
		t.Run(at, func(t *testing.T) {
			ownTemp(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := screen{await: at, seen: cancel}
			err := Run(ctx, Options{Out: &out, Program: program, Keep: keep})
			if err == nil || err.Error() != "stopped before its end; everything is cleaned up" {
				t.Errorf("got %v after\n%s", err, out.String())
			}
		})
		if testing.Short() {
			break
		}
	}
}

var (
	escapes = regexp.MustCompile("\x1b\\[[0-9;]*[mK]")
	socket  = regexp.MustCompile(`--socket (\S+/\S+)`)
	door    = regexp.MustCompile(`-t ([0-9]+) .*192\.0\.2\.10`)
)

func TestKeptRunningUntilItIsAskedToStop(t *testing.T) {
	if testing.Short() {
		t.Skip("the demonstration is shown once already")
	}
	program := build(t)
	ownTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := screen{await: "Ctrl-C stops"}
	out.seen = func() {
		defer cancel()
		checkDoor(t, out.String())
		tryDrain(t, out.String())
	}
	if err := Run(ctx, Options{Out: &out, Program: program, Keep: true, Color: true, Width: 80}); err != nil {
		t.Fatalf("got %v after\n%s", err, out.String())
	}
	if want := "\x1b[1;32m200 of 200 clients got their FIN, 0 resets, exit status 0\x1b[0m\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant %q at the end", out.String(), want)
	}
	for _, line := range strings.FieldsFunc(escapes.ReplaceAllString(out.String(), ""), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if utf8.RuneCountInString(line) > 80 && !strings.HasPrefix(line, indent+"$ ") && !strings.Contains(line, "admin: {socket:") {
			t.Errorf("got a line of more than 80 columns: %q", line)
		}
	}
}

// tryDrain drains a service, as who tries things may do, and leaves it so.
func tryDrain(t *testing.T, text string) {
	m := socket.FindStringSubmatch(escapes.ReplaceAllString(text, ""))
	if m == nil {
		t.Errorf("got\n%s\nwant a command with --socket", text)
		return
	}
	if err := admin.NewClient(m[1]).Drain(t.Context(), admin.DrainOrder{Target: "web"}); err != nil {
		t.Error(err)
	}
}

// checkDoor wants the printed command to lead into another network namespace,
// the client's.
func checkDoor(t *testing.T, text string) {
	m := door.FindStringSubmatch(text)
	if m == nil {
		if _, err := exec.LookPath("nsenter"); err == nil {
			t.Errorf("got\n%s\nwant a command that enters the client", text)
		}
		return
	}
	routes, err := os.ReadFile(fmt.Sprintf("/proc/%s/net/fib_trie", m[1]))
	if err != nil || !bytes.Contains(routes, []byte("192.0.2.2\n")) || bytes.Contains(routes, []byte("192.0.2.10\n")) {
		t.Errorf("process %s is not in the client's namespace: %v\n%s", m[1], err, routes)
	}
}

func TestAPathTooLongForASocketIsReported(t *testing.T) {
	labtest.Need(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	err := Run(t.Context(), Options{Out: &screen{}, Program: "/nonexistent"})
	if err == nil || !strings.HasSuffix(err.Error(), "is too long for a unix socket: set TMPDIR to a shorter one") {
		t.Errorf("got %v, want the reason and what to do", err)
	}
}

func TestAProgramThatFailsIsReported(t *testing.T) {
	labtest.Need(t)
	ownTemp(t)
	program, err := exec.LookPath("false")
	if err != nil {
		t.Skipf("no program that fails: %v", err)
	}
	var out screen
	err = Run(t.Context(), Options{Out: &out, Program: program})
	if want := "`appliance check -c appliance.yaml` ended with status 1"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
