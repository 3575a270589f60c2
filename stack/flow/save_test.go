package flow_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/netif/frame"
)

// What was in TIME-WAIT when one table stopped is so in the next, for what is
// left of its time: it still answers, and ends when it would have.
func TestTimeWaitsOutliveTheirTable(t *testing.T) {
	first := newCrowd(100)
	for i := range uint32(100) {
		first.end(i)
	}
	first.clock.Advance(20 * time.Second)
	dir := t.TempDir()
	w, err := journal.Create(journal.TimeWait, dir, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	first.table.SaveTimeWaits(0, func(c *journal.Conn) {
		if left := time.Duration(c.Left) * time.Millisecond; left < 39*time.Second || left > 40*time.Second {
			t.Errorf("%v has %v left, want 40 s", c.Remote, left)
		}
		w.Add(c)
		n++
	})
	first.table.SaveTimeWaits(1, func(c *journal.Conn) { t.Errorf("card 1 has %v", c.Remote) })
	now, err := journal.Now()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(now); err != nil || n != 100 {
		t.Fatalf("%d are saved, %v; want 100", n, err)
	}
	now.Up += 10 * time.Second
	j, err := journal.Load(journal.TimeWait, dir, "eth0", now)
	if err != nil {
		t.Fatal(err)
	}
	second := newCrowd(100)
	all := func(netip.Addr) bool { return true }
	name := func(netip.AddrPort) string { return "default" }
	if got := second.table.RestoreTimeWaits(0, j, all, name); got != 100 || second.table.Held() != 100 {
		t.Fatalf("%d are restored and %d held, want 100", got, second.table.Held())
	}
	if got := second.table.RestoreTimeWaits(0, j, all, name); got != 0 {
		t.Errorf("%d are restored twice", got)
	}
	if got := second.show(7, true, flagFIN|flagACK, 1001, 5002); got != frame.Reply {
		t.Errorf("a FIN that comes again gets verdict %d, want an answer", got)
	}
	second.table.Start(nil, nil)
	defer second.table.Close()
	second.clock.Advance(29 * time.Second)
	if got := second.table.Held(); got != 100 {
		t.Errorf("after 29 of 30 s %d are left, want all", got)
	}
	second.clock.Advance(2 * time.Second)
	if got := second.table.Held(); got != 1 {
		t.Errorf("after their time %d are left, want the one whose FIN came again", got)
	}
	refused := newCrowd(100)
	if got := refused.table.RestoreTimeWaits(0, j, func(netip.Addr) bool { return false }, name); got != 0 {
		t.Errorf("%d are restored for addresses that are not ours", got)
	}
}
