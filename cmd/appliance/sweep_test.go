package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// journalOf is the file of a card.
func (r *rig) journalOf(card string) string {
	return journal.Alive.Path(filepath.Join(r.dir, "nic"), card)
}

// journalled waits until the journals of both cards have so many connections.
func (r *rig) journalled(wan, lan int) {
	r.t.Helper()
	r.journalledAll(map[string]int{"wan0": wan, "lan0": lan})
}

// journalledAll is journalled for some cards.
func (r *rig) journalledAll(cards map[string]int) {
	r.t.Helper()
	for card, want := range cards {
		got := -1
		eventually(r.t, 15*time.Second, "the journal of "+card+" is complete", func() bool {
			now, err := journal.Now()
			if err != nil {
				r.t.Fatal(err)
			}
			j, err := journal.Load(journal.Alive, filepath.Join(r.dir, "nic"), card, now)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.t.Fatal(err)
			}
			if err == nil {
				got = j.Len()
			}
			return got == want
		})
	}
}

// crash kills the daemon.
func (p *process) crash() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	if code := p.end(10 * time.Second); code != -1 {
		p.t.Fatalf("got exit status %d of a killed process", code)
	}
}

// ends collects how many connections end, and how.
type ends struct {
	wg    sync.WaitGroup
	mu    sync.Mutex
	reset int
	last  time.Time // of a reset
	other []error
}

// watch reads a connection to its end.
func (e *ends) watch(c net.Conn) {
	e.wg.Go(func() { e.read(c) })
}

func (e *ends) read(c net.Conn) {
	buf := make([]byte, 64)
	for {
		_, err := c.Read(buf)
		if err == nil {
			continue
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if errors.Is(err, syscall.ECONNRESET) {
			e.reset, e.last = e.reset+1, time.Now()
		} else {
			e.other = append(e.other, err)
		}
		return
	}
}

func (e *ends) resets() (n int, last time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reset, e.last
}

// A thousand clients and their thousand backend connections know nothing of the
// crash that has ended them; the next start tells all of them.
func TestAfterACrashEveryPeerIsTold(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 200
	}
	r := newRig(t, nil)
	backends := &ends{}
	server, err := lab.Serve(t.Context(), r.backend, "[::]:7", func(c net.Conn) error {
		backends.read(c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configure(`services: {echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7", "[fd00:10::21]:7"]}}
`)
	p := r.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	clients := &ends{}
	for _, addr := range []string{"192.0.2.10:7", "[2001:db8::10]:7"} {
		m, err := lab.OpenMany(ctx, r.client, addr, n/2)
		if err != nil {
			t.Fatal(err)
		}
		labtest.Close(t, m)
		for _, c := range m.Conns() {
			clients.watch(c)
		}
	}
	r.journalled(n, n)
	p.crash()
	time.Sleep(300 * time.Millisecond)
	if c, _ := clients.resets(); c != 0 {
		t.Fatalf("%d clients were reset by the crash itself", c)
	}

	launched := time.Now()
	p = r.start()
	began := time.Now()
	told := func() bool {
		c, _ := clients.resets()
		b, _ := backends.resets()
		return c == n && b == n
	}
	for end := time.Now().Add(15 * time.Second); !told() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	c, lastClient := clients.resets()
	b, lastBackend := backends.resets()
	t.Logf("the start took %v; after that the last client was told in %v, the last backend in %v; other ends %v %v",
		began.Sub(launched), lastClient.Sub(began), lastBackend.Sub(began), clients.other, backends.other)
	if c != n || b != n {
		t.Errorf("%d of %d clients and %d of %d backends were reset", c, n, b, n)
	}
	if took := max(lastClient.Sub(began), lastBackend.Sub(began)); took > inTime(time.Second) {
		t.Errorf("it took %v, want %v at most", took, inTime(time.Second))
	}

	var s admin.Status
	eventually(t, 10*time.Second, "the sweep is over", func() bool {
		out, _, _ := r.run("status", "--json")
		s = admin.Status{}
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatal(err)
		}
		return s.Sweep != nil && s.Sweep.Over
	})
	t.Logf("%+v", *s.Sweep)
	if s.Sweep.Found != 2*n || s.Sweep.Ended+s.Sweep.Gone != 2*n || s.Sweep.Ended < 2*n*9/10 || s.Sweep.Silent != 0 {
		t.Errorf("the report is %+v, want all of %d ended", *s.Sweep, 2*n)
	}
	out, _, _ := r.run("status")
	contains(t, "status", out, "Sweep after a crash: ", "reset", "0 silent; 0 skipped, took ")
	contains(t, "the log", p.log.String(), "the last run has crashed with connections open", "swept the connections of before the crash")
	if strings.Count(p.log.String(), "swept the connections") != 1 {
		t.Error("it swept more than once")
	}
	eventually(t, 10*time.Second, "nothing is left in the journals", func() bool {
		_, wan := os.Stat(r.journalOf("wan0"))
		_, lan := os.Stat(r.journalOf("lan0"))
		return errors.Is(wan, fs.ErrNotExist) && errors.Is(lan, fs.ErrNotExist)
	})
	p.stop()
	clients.wg.Wait()
}

// The journal is not written for traffic alone: numbers that are megabytes old
// end a connection as well, and so do segments that were under way.
func TestAfterACrashAnOldJournalServesAsWell(t *testing.T) {
	const n, size = 8, 4 << 20
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	p := r.start()
	var all []*net.TCPConn
	for range n {
		c := r.dial("192.0.2.10:7")
		exchange(t, c, "hello\n", "hello\n")
		all = append(all, c)
	}
	r.journalled(n, n)
	// What comes while it is written may be in it, and counts as new once more.
	time.Sleep(1200 * time.Millisecond)
	before, err := os.Stat(r.journalOf("wan0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		moved := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, size))
			moved <- err
		}()
		if _, err := io.CopyN(io.Discard, c, size); err != nil {
			t.Fatal(err)
		}
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(1200 * time.Millisecond)
	if after, err := os.Stat(r.journalOf("wan0")); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the journal was written for traffic alone: %v, %v", after, err)
	}
	if _, err := all[0].Write(make([]byte, 1<<16)); err != nil { // under way when it crashes, or soon after
		t.Fatal(err)
	}
	p.crash()
	clients := &ends{}
	for _, c := range all {
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		clients.watch(c)
	}
	p = r.start()
	eventually(t, 10*time.Second, "every client is reset", func() bool {
		c, _ := clients.resets()
		return c == n
	})
	eventually(t, 10*time.Second, "the sweep is over, and everybody was told", func() bool {
		s := r.status().Sweep
		return s != nil && s.Over && s.Found == 2*n && s.Ended+s.Gone == 2*n && s.Silent == 0
	})
	p.stop()
	clients.wg.Wait()
}

func TestACleanStopLeavesNoJournal(t *testing.T) {
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	p := r.start()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "hello\n", "hello\n")
	r.journalled(1, 1)
	saw := polite(t, c)
	p.stop()
	if err := <-saw; err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, "nic"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "connections") {
			t.Errorf("%s was left", e.Name())
		}
	}
	p = r.start()
	if s := r.status(); s.Sweep != nil || strings.Contains(p.log.String(), "crash") {
		t.Errorf("after a clean stop there was a sweep: %+v\n%s", s.Sweep, p.log)
	}
	p.stop()
}

func TestAJournalThatCannotBeReadIsWarnedOfOnce(t *testing.T) {
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	p := r.start()
	exchange(t, r.dial("192.0.2.10:7"), "hello\n", "hello\n")
	r.journalled(1, 1)
	p.crash()
	text, err := os.ReadFile(r.journalOf("wan0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.journalOf("wan0"), text[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	p = r.start()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "hello\n", "hello\n")
	if n := strings.Count(p.log.String(), "journal"); n != 2 || strings.Count(p.log.String(), "wan0.connections is cut short") != 1 {
		t.Errorf("the log has %d words of a journal, want one warning:\n%s", n, p.log)
	}
	// The other card's was whole.
	eventually(t, 10*time.Second, "the backend's connection is swept", func() bool {
		s := r.status().Sweep
		return s != nil && s.Over && s.Found == 1 && s.Ended == 1
	})
	r.journalled(1, 1) // a new one takes the place of the damaged one
	saw := polite(t, c)
	p.stop()
	if err := <-saw; err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
}

// It is said once, and what is in the way may be removed at any time.
func TestAJournalThatCannotBeWrittenIsWarnedOfOnce(t *testing.T) {
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	draft := filepath.Join(r.dir, "nic", ".wan0.connections.new")
	if err := os.MkdirAll(filepath.Join(draft, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := r.start()
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "hello\n", "hello\n")
	time.Sleep(2500 * time.Millisecond)
	if n := strings.Count(p.log.String(), "the journal of connections is not kept"); n != 1 {
		t.Errorf("the log has %d warnings, want one:\n%s", n, p.log)
	}
	if err := os.RemoveAll(draft); err != nil {
		t.Fatal(err)
	}
	r.journalled(1, 1)
	saw := polite(t, c)
	p.stop()
	if err := <-saw; err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
}

func TestWithoutAJournalNothingIsWrittenOrSwept(t *testing.T) {
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy + "state: {journal: off}\n")
	p := r.start()
	exchange(t, r.dial("192.0.2.10:7"), "hello\n", "hello\n")
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(r.journalOf("wan0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a journal: %v", err)
	}
	p.crash()
	p = r.start()
	if s := r.status(); s.Sweep != nil {
		t.Errorf("there was a sweep: %+v", s.Sweep)
	}
	p.stop()
}
