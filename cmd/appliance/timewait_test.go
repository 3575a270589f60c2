package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// waiting are the connections to a port that are in TIME-WAIT.
func (r *rig) waiting(port uint16) (some []admin.Flow) {
	r.t.Helper()
	all, err := r.admin.Flows(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		if f.State == "TIME-WAIT" && f.Local.Port() == port {
			some = append(some, f)
		}
	}
	return some
}

// Connections in TIME-WAIT stay there over a restart, for what is left of it; a
// file that cannot be trusted is refused with a word.
func TestTimeWaitGoesOnAfterARestart(t *testing.T) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(echoProxy)
	p := r.start()
	const clients = 20
	saw := make([]<-chan error, clients)
	for i := range saw {
		c := r.dial("192.0.2.10:7")
		exchange(t, c, "hello\n", "hello\n")
		saw[i] = polite(t, c)
	}
	p.stop() // our FIN is first: TIME-WAIT is ours
	for _, s := range saw {
		if err := <-s; err != nil {
			t.Error(err)
		}
	}
	time.Sleep(2 * time.Second)
	p = r.start()
	some := r.waiting(7)
	if len(some) != clients {
		t.Fatalf("after a restart %d connections are in TIME-WAIT, want %d:\n%s", len(some), clients, p.log)
	}
	for _, f := range some {
		if left := f.Life.TimeWaitLeft; left > 58*time.Second || left < 40*time.Second {
			t.Errorf("%s has %v left, want 60 s less what has passed", f.Remote, left)
		}
	}
	contains(t, "the log", p.log.String(), "still in TIME-WAIT")
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "again\n", "again\n")
	polite(t, c)
	p.stop()

	file := journal.TimeWait.Path(filepath.Join(r.dir, "nic"), "wan0")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-5] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p = r.start()
	if got := p.log.String(); strings.Count(got, "connections in TIME-WAIT are forgotten") != 1 || !strings.Contains(got, "is damaged") {
		t.Errorf("of a damaged file the log says:\n%s", got)
	}
	if some := r.waiting(7); len(some) > 0 {
		t.Errorf("%d connections come from a damaged file", len(some))
	}
	var again net.Conn = r.dial("192.0.2.10:7")
	exchange(t, again, "on\n", "on\n")
	polite(t, again)
	p.stop()
}
