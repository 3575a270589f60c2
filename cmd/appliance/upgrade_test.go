package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/handover"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// line is a series of processes, each in the place of the one before. Their log
// is one file.
type line struct {
	*rig
	first *process
	pid   int
}

// startLine runs the first of a line.
func (r *rig) startLine() *line {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	p := &process{t: r.t, cmd: r.appliance("run", "-c", r.file, "--log-format", "text", "--log-level", "debug"), log: &output{}}
	p.cmd.Stderr = log // as a pipe it would be waited for until the last has ended
	p.ended = labtest.Start(r.t, r.box, p.cmd)
	l := &line{rig: r, first: p, pid: p.cmd.Process.Pid}
	r.t.Cleanup(func() {
		for _, pid := range r.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may end by itself
		}
		if r.t.Failed() {
			r.t.Logf("the log:\n%s", l.log())
		}
	})
	eventually(r.t, 20*time.Second, "the appliance answers", func() bool {
		_, err := r.admin.Status(r.t.Context())
		return err == nil
	})
	return l
}

func (l *line) log() string {
	b, err := os.ReadFile(filepath.Join(l.dir, "log"))
	if err != nil {
		l.t.Error(err)
	}
	return string(b)
}

// upgrade puts the same binary in the place of the last.
func (l *line) upgrade() admin.Upgraded {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, stderr, code := l.run("upgrade", "--json", self)
	var up admin.Upgraded
	if code != exitOK || json.Unmarshal([]byte(stdout), &up) != nil || up.PID == l.pid {
		l.t.Fatalf("upgrade: status %d, %s%s", code, stdout, stderr)
	}
	before := l.pid
	l.pid = up.PID
	l.awaitEnd(before)
	return up
}

// awaitEnd waits until a process of the line has ended.
func (l *line) awaitEnd(pid int) {
	l.t.Helper()
	if pid == l.first.cmd.Process.Pid {
		if code := l.first.end(10 * time.Second); code != exitOK {
			l.t.Errorf("the first process ended with status %d", code)
		}
		return
	}
	eventually(l.t, 10*time.Second, "the process before has ended", func() bool { return hasEnded(pid) })
}

// hasEnded reports whether a process is gone, or a zombie.
func hasEnded(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// stop drains the last of the line.
func (l *line) stop() {
	l.t.Helper()
	if err := syscall.Kill(l.pid, syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	l.awaitEnd(l.pid)
}

// stalls is the longest that one of many connections waited for an answer.
type stalls struct{ longest atomic.Int64 }

func (s *stalls) note(d time.Duration) {
	for {
		old := s.longest.Load()
		if int64(d) <= old || s.longest.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (s *stalls) take() time.Duration { return time.Duration(s.longest.Swap(0)) }

// chatter keeps n connections busy with questions and answers until stop, which
// returns what went wrong with the first.
func (r *rig) chatter(n int, addr string, waits *stalls) (asked *atomic.Int64, stop func() error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	asked = &atomic.Int64{}
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error
	for i := range n {
		c := r.dial(addr)
		all.Go(func() {
			defer c.Close()
			if err := chat(ctx, c, i, asked, waits); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = fmt.Errorf("connection %d: %w", i, err)
				}
			}
		})
	}
	return asked, func() error {
		cancel()
		all.Wait()
		return first
	}
}

func chat(ctx context.Context, c net.Conn, id int, asked *atomic.Int64, waits *stalls) error {
	buf := make([]byte, 64)
	for n := 0; ctx.Err() == nil; n++ {
		question := fmt.Appendf(nil, "connection %d question %d\n", id, n)
		began := time.Now()
		if err := c.SetDeadline(began.Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write(question); err != nil {
			return err
		}
		answer := buf[:len(question)]
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
		if !bytes.Equal(answer, question) {
			return fmt.Errorf("asked %q, got %q", question, answer)
		}
		waits.note(time.Since(began))
		asked.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// endless is a transfer both ways at once that goes on until it is told to end:
// each side sends what no other could and takes what the other sends.
type endless struct {
	r     *rig
	addr  string
	stop  chan struct{}
	moved atomic.Int64 // bytes received, by both
	far   chan digest  // what the server has sent and received
}

// digest tells of a side what went each way.
type digest struct {
	sent, received int64
	out, in        [sha256.Size]byte
	err            error
}

// bulk starts a server for one transfer to addr.
func (r *rig) bulk(listen, addr string) *endless {
	r.t.Helper()
	b := &endless{r: r, addr: addr, stop: make(chan struct{}), far: make(chan digest, 1)}
	s, err := lab.Serve(r.t.Context(), r.backend, listen, func(c net.Conn) error {
		d := b.exchange(c, 1)
		b.far <- d
		return d.err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	labtest.Close(r.t, s)
	return b
}

// begin starts it; the channel tells whether each side has received what the
// other has sent.
func (b *endless) begin() <-chan error {
	b.r.t.Helper()
	c := b.r.dial(b.addr)
	done := make(chan error, 1)
	go func() {
		near := b.exchange(c, 2)
		err := errors.Join(near.err, c.Close())
		far := <-b.far
		if err = errors.Join(err, far.err); err == nil && (near.out != far.in || far.out != near.in) {
			err = fmt.Errorf("%d of %d bytes came there, %d of %d back, and not the same", far.received, near.sent, near.received, far.sent)
		}
		done <- err
	}()
	return done
}

func (b *endless) end() { close(b.stop) }

func (b *endless) exchange(c net.Conn, seed byte) (d digest) {
	sent := make(chan error, 1)
	go func() {
		from, sum, buf := rand.NewChaCha8([32]byte{seed}), sha256.New(), make([]byte, 64<<10)
		for {
			select {
			case <-b.stop:
				d.out = [sha256.Size]byte(sum.Sum(nil))
				sent <- c.(interface{ CloseWrite() error }).CloseWrite()
				return
			default:
			}
			from.Read(buf) // never fails
			n, err := c.Write(buf)
			sum.Write(buf[:n])
			if d.sent += int64(n); err != nil {
				sent <- err
				return
			}
		}
	}()
	sum, buf := sha256.New(), make([]byte, 64<<10)
	var failed error
	for {
		n, err := c.Read(buf)
		sum.Write(buf[:n])
		d.received += int64(n)
		b.moved.Add(int64(n))
		if err != nil {
			if err != io.EOF {
				failed = err
				_ = c.SetDeadline(time.Unix(1, 0)) // or the sender would wait for long
			}
			break
		}
	}
	d.in = [sha256.Size]byte(sum.Sum(nil))
	d.err = errors.Join(failed, <-sent)
	return d
}

// Ten upgrades under busy connections and a bulk transfer each way: nobody
// notices but by a moment's silence.
func TestUpgradesInPlaceUnderLoad(t *testing.T) {
	n, rounds := 1000, 10
	if testing.Short() {
		n, rounds = 100, 3
	}
	for _, forwarding := range []string{"relay", "splice", "direct"} {
		t.Run(forwarding, func(t *testing.T) { upgrades(t, forwarding, n, rounds) })
	}
}

func upgrades(t *testing.T, forwarding string, n, rounds int) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	bulk := r.bulk("10.0.0.21:9", "192.0.2.10:9")
	r.configure(fmt.Sprintf(`services:
  echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"], forwarding: %[1]s}
  bulk: {type: proxy, listen: "wan0:9", backends: ["10.0.0.21:9"], forwarding: %[1]s}
  own: {type: echo, listen: "wan0:77"}
drain: {deadline: 2s, fin_grace: 2s}
`, forwarding))
	l := r.startLine()
	var waits stalls
	asked, stop := r.chatter(n, "192.0.2.10:7", &waits)
	own := r.dial("192.0.2.10:77")
	exchange(t, own, "before\n", "before\n")
	transferred := bulk.begin()
	time.Sleep(300 * time.Millisecond)
	var longest, rested time.Duration
	for i := range rounds {
		waits.take()
		before := bulk.moved.Load()
		got := l.upgrade()
		if got.Connections < n+1 || got.Lost != 0 {
			t.Errorf("upgrade %d: %d connections went over, %d were lost", i, got.Connections, got.Lost)
		}
		exchange(t, own, "still there\n", "still there\n")
		c := r.dial("192.0.2.10:77")
		exchange(t, c, "new\n", "new\n")
		c.Close()
		time.Sleep(200 * time.Millisecond)
		wait := waits.take()
		t.Logf("upgrade %d: nothing moved for %v, an answer took %v, %d MB of bulk went meanwhile", i+1,
			got.Rested.Round(time.Millisecond), wait.Round(time.Millisecond), (bulk.moved.Load()-before)>>20)
		if bulk.moved.Load() == before {
			t.Errorf("upgrade %d: the bulk transfer has stopped", i+1)
		}
		longest, rested = max(longest, wait), max(rested, got.Rested)
	}
	if err := stop(); err != nil {
		t.Errorf("a connection that was to go on: %v", err)
	}
	bulk.end()
	if err := <-transferred; err != nil {
		t.Errorf("the bulk transfer: %v", err)
	}
	t.Logf("%d connections, %d upgrades, %d questions: the longest wait for an answer %v, the longest rest %v", n, rounds, asked.Load(), longest, rested)
	if longest > inTime(time.Second) {
		t.Errorf("somebody waited for %v, want %v at most", longest, inTime(time.Second))
	}
	ended, err := r.admin.Ended(t.Context())
	if err != nil || len(ended) == 0 {
		t.Errorf("no ended connections are known: %v", err)
	}
	alone := func() bool {
		rows, err := r.admin.Conns(t.Context())
		return err == nil && len(rows) == 1
	}
	eventually(t, 20*time.Second, "all but one connection have ended", alone)
	polite(t, own)
	l.stop()
	if text := l.log(); !strings.Contains(text, "INF drained clean=1 reset=0 unacked=0") || strings.Contains(text, " ERR ") {
		t.Error("the last process did not drain without errors")
	}
	// The last one gave the cards back.
	b, err := os.ReadDir(filepath.Join(r.dir, "nic"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range b {
		if strings.HasSuffix(f.Name(), "0.json") {
			t.Errorf("%s is left: the card was not given back", f.Name())
		}
	}
}

// Whatever is wrong with the new binary, the old process goes on.
func TestAnUpgradeThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configure("services:\n  echo: {type: echo, listen: \"wan0:7\"}\n")
	l := r.startLine()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "before\n", "before\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, mode os.FileMode, text []byte) string {
		t.Helper()
		path := filepath.Join(r.dir, name)
		if err := os.WriteFile(path, text, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	elf := func(machine byte) []byte { // a header that the kernel would look at
		b := make([]byte, 64)
		copy(b, "\x7fELF\x02\x01\x01")
		b[16], b[18], b[20], b[52], b[54], b[58] = 2, machine, 1, 64, 56, 64
		return b
	}
	other := byte(183) // EM_AARCH64
	if machines["arm64"] == machines[runtime.GOARCH] {
		other = 62
	}
	for _, bad := range []struct{ path, want string }{
		{filepath.Join(r.dir, "nowhere"), "there is no file"},
		{write("text", 0o644, []byte("hello")), "is not an executable file"},
		{r.dir, "is not an executable file"},
		{write("script", 0o755, []byte("#!/bin/sh\nexit 0\n")), "is not a program for Linux"},
		{write("other", 0o755, elf(other)), "is for another architecture"},
		{"/bin/true", "the new binary cannot take over: "},
		{"/bin/sleep", "the other process has ended"},
	} {
		_, stderr, code := r.run("upgrade", bad.path)
		if code != exitError || !strings.Contains(stderr, bad.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %q; want %q", bad.path, code, stderr, bad.want)
		}
		exchange(t, c, "still\n", "still\n")
	}
	if _, stderr, code := r.run("upgrade", self, self); code != exitUsage {
		t.Errorf("two binaries: status %d, %q", code, stderr)
	}
	l.upgrade()
	exchange(t, c, "after\n", "after\n")
	polite(t, c)
	l.stop()
}

// successorRole makes a test program that is to take over do something else.
const successorRole = "LASTACK_TEST_SUCCESSOR"

// badSuccessor takes everything that is handed over, and then does not go on.
func badSuccessor(how string) int {
	l, err := handover.Join(os.NewFile(3, "line"))
	if err != nil {
		return exitError
	}
	var hello greeting
	first := ready{Version: "bad"}
	if how == "unreadable" {
		first.Unreadable = "version bad keeps connections in another form"
	}
	err = errors.Join(l.ReceiveJSON("the greeting", &hello), l.SendJSON("its first word", first))
	if how == "unreadable" {
		return exitError
	}
	for _, kind := range []string{"the state", "the flows", "the connections"} {
		_, files, failed := l.Receive(kind)
		err = errors.Join(err, failed)
		handover.CloseAll(files)
	}
	if err == nil && how == "refuses" {
		err = l.Refuse(errors.New("it does not want to"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the bad successor:", err)
	}
	return exitError
}

// A new process that ends in the middle of the hand-over, when all rests, leaves
// the old one as it was.
func TestTheOldProcessGoesOnIfTheNewOneDoesNot(t *testing.T) {
	for how, want := range map[string]string{"refuses": "it does not want to", "dies": "the other process has ended"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, nil)
			labtest.Echo(t, r.backend, "10.0.0.21:7")
			r.configure("services:\n  echo: {type: proxy, listen: \"wan0:7\", backends: [\"10.0.0.21:7\"]}\n")
			t.Setenv(successorRole, how)
			l := r.startLine()
			var waits stalls
			_, stop := r.chatter(50, "192.0.2.10:7", &waits)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				_, stderr, code := r.run("upgrade", self)
				if code != exitError || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
					t.Fatalf("status %d, %q; want %q", code, stderr, want)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			c := r.dial("192.0.2.10:7")
			exchange(t, c, "new\n", "new\n")
			polite(t, c)
			l.stop()
		})
	}
}

// A version that cannot read the connections of the running one takes its place
// all the same, after they have ended in order; unless that is not wanted, or
// somebody stops the appliance meanwhile.
func TestAnUpgradeToAVersionThatCannotReadConnectionsDrains(t *testing.T) {
	t.Setenv(successorRole, "unreadable")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(t *testing.T) (*line, *net.TCPConn) {
		r := newRig(t, nil)
		r.configure("services:\n  echo: {type: echo, listen: \"wan0:7\"}\ndrain: {deadline: 1h, max: 2h, profiles: {upgrade: {deadline: 300ms, fin_grace: 2s}}}\n")
		l := r.startLine()
		c := r.dial("192.0.2.10:7")
		exchange(t, c, "before\n", "before\n")
		return l, c
	}
	t.Run("drains and starts", func(t *testing.T) {
		l, first := begin(t)
		saw := polite(t, first)
		_, stderr, code := l.run("upgrade", "--live-only", self)
		if code != exitError || !strings.Contains(stderr, "version bad keeps connections in another form") {
			t.Errorf("with --live-only: status %d, %s", code, stderr)
		}
		select {
		case err := <-saw:
			t.Fatalf("with --live-only the client saw %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		stdout, stderr, code := l.run("upgrade", self)
		if code != exitOK || !strings.Contains(stdout, "version bad keeps connections in another form: connections drain now, for up to ") {
			t.Fatalf("status %d, %s%s", code, stdout, stderr)
		}
		if err := <-saw; err != nil {
			t.Errorf("the client saw %v, want FIN", err)
		}
		eventually(t, 20*time.Second, "the new one serves", func() bool {
			return strings.Count(l.log(), "INF ready") == 2
		})
		c := l.dial("192.0.2.10:7")
		exchange(t, c, "after\n", "after\n")
		if s := l.status(); s.PID != l.pid {
			t.Errorf("process %d serves, want %d: the service manager knows that one", s.PID, l.pid)
		}
		if text := l.log(); !strings.Contains(text, "INF drained clean=1 reset=0 unacked=0") {
			t.Error("it was not drained in order")
		}
		polite(t, c)
		l.stop()
	})
	t.Run("is stopped", func(t *testing.T) {
		l, _ := begin(t) // whose client never answers our FIN
		l.first.signal(syscall.SIGUSR2)
		eventually(t, 20*time.Second, "it drains", func() bool { return strings.Contains(l.log(), "asked to stop: draining") })
		l.first.signal(syscall.SIGTERM)
		if code := l.first.end(10 * time.Second); code != exitReset {
			t.Errorf("exit status %d, want %d", code, exitReset)
		}
		if text := l.log(); strings.Contains(text, "starting again") || strings.Count(text, "gave the network card back") != 2 {
			t.Error("it was to end")
		}
	})
}

// Whoever asks the old process to stop in the middle of an upgrade means both.
func TestATermInTheMiddleOfAnUpgradeStopsAll(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"ready", "upgrading", "at rest", "wrote the state", "made a stack and services"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.configure("services:\n  echo: {type: echo, listen: \"wan0:7\"}\n")
			l := r.startLine()
			c := r.dial("192.0.2.10:7")
			exchange(t, c, "before\n", "before\n")
			saw := polite(t, c)
			l.first.signal(syscall.SIGUSR2)
			for !strings.Contains(l.log(), moment) {
				time.Sleep(time.Millisecond / 2)
			}
			l.first.signal(syscall.SIGTERM)
			select {
			case err := <-saw:
				if err != nil {
					t.Errorf("the client saw %v, want FIN", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the client saw nothing")
			}
			eventually(t, 10*time.Second, "all have ended", func() bool { return len(r.processes()) == 0 })
			if text := l.log(); strings.Count(text, "gave the network card back") != 2 {
				t.Errorf("the cards were not given back once:\n%s", text)
			}
		})
	}
}
