package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// suspend ends a process by its own command.
func (r *rig) suspend(p *process) admin.Suspended {
	r.t.Helper()
	stdout, stderr, code := r.run("suspend", "--json")
	var out admin.Suspended
	if code != exitOK || json.Unmarshal([]byte(stdout), &out) != nil {
		r.t.Fatalf("suspend: status %d, %s%s", code, stdout, stderr)
	}
	if code := p.end(10 * time.Second); code != exitOK {
		r.t.Fatalf("the suspended process ended with status %d", code)
	}
	return out
}

// A planned restart ends no connection: what clients sent meanwhile is answered
// afterwards, halves stay closed, totals and times go on.
func TestConnectionsOutliveAPlannedRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	const first = `services:
  web: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}
  own: {type: echo, listen: "wan0:77"}
  gone: {type: echo, listen: "wan0:78"}
`
	r.configure(first)
	p := r.start()
	ended := r.dial("192.0.2.10:7")
	exchange(t, ended, "x\n", "x\n")
	ended.Close()
	web, own, half, gone := r.dial("192.0.2.10:7"), r.dial("192.0.2.10:77"), r.dial("192.0.2.10:7"), r.dial("192.0.2.10:78")
	for _, c := range []net.Conn{web, own, half, gone} {
		exchange(t, c, "before\n", "before\n")
	}
	eventually(t, 5*time.Second, "one has ended", func() bool {
		all, err := r.admin.Ended(t.Context())
		return err == nil && len(all) == 1
	})
	for range 2 {
		if out := r.suspend(p); out.Connections < 3 {
			t.Errorf("%d connections are saved", out.Connections)
		}
		if _, err := io.WriteString(web, "meanwhile\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		r.configure(strings.Replace(first, `  gone: {type: echo, listen: "wan0:78"}`+"\n", "", 1)) // another configuration
		p = r.start()
		exchange(t, web, "", "meanwhile\n")
		exchange(t, own, "after\n", "after\n")
	}
	if err := gone.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of a service that is there no more reads %v, want a reset", err)
	}
	closeWrite(t, half)
	if _, err := io.ReadAll(half); err != nil {
		t.Errorf("the one that has finished reads %v", err)
	}
	all, err := r.admin.Ended(t.Context())
	if err != nil || len(all) < 1 {
		t.Errorf("%d ended connections are known, %v", len(all), err)
	}
	conns, err := r.admin.Conns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range conns {
		if row.Service == "web" && row.Age < time.Second {
			t.Errorf("connection %d is %v old: its time began anew", row.ID, row.Age)
		}
	}
	polite(t, web)
	polite(t, own)
	p.stop()
	if _, err := os.Stat(filepath.Join(r.dir, "nic", suspendedName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state is left: %v", err)
	}
}

func closeWrite(t *testing.T, c interface{ CloseWrite() error }) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// A file that cannot be used is refused with a word, and peers are told as after
// a crash.
func TestABadStateIsRefusedAndTheBoxStartsWithoutIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configure("services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	path := filepath.Join(r.dir, "nic", suspendedName)
	for _, bad := range []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"truncated", "it is damaged", func(b []byte) []byte { return b[:len(b)/2] }},
		{"changed", "it is damaged", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"foreign", "it is of another form", func([]byte) []byte { return []byte("PNG") }},
		{"another version", "it is of another form", func(b []byte) []byte {
			return bytes.Replace(b, []byte("state 1"), []byte("state 2"), 1)
		}},
	} {
		p := r.start()
		c := r.dial("192.0.2.10:77")
		exchange(t, c, "before\n", "before\n")
		time.Sleep(1100 * time.Millisecond) // the journal knows it
		r.suspend(p)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, bad.change(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		p = r.start()
		if text := p.log.String(); !strings.Contains(text, "is not used, this one starts without") || !strings.Contains(text, bad.want) {
			t.Errorf("%s: the log has no word of it:\n%s", bad.name, text)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client reads %v, want a reset", bad.name, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file is left: %v", bad.name, err)
		}
		p.stop()
	}
}

// Age and clock are judged, and what is in the file after its sum.
func TestAStaleStateIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configure("services:\n  own: {type: echo, listen: \"wan0:77\"}\n")
	p := r.start()
	c := r.dial("192.0.2.10:77")
	exchange(t, c, "before\n", "before\n")
	r.suspend(p)
	b, err := os.ReadFile(filepath.Join(r.dir, "nic", suspendedName))
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]struct {
		now  time.Time
		want string
	}{
		"fresh": {time.Now(), ""}, "stale": {time.Now().Add(time.Hour), "peers have given up"}, "early": {time.Now().Add(-time.Hour), "the clock has been set back"},
	} {
		_, err := readSuspended(b, at.now)
		if (err == nil) != (at.want == "") || err != nil && !strings.Contains(err.Error(), at.want) {
			t.Errorf("%s: %v, want %q", name, err, at.want)
		}
	}
	p = r.start()
	exchange(t, c, "after\n", "after\n")
	polite(t, c)
	p.stop()
}
