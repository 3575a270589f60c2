package flow_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

var box = netip.MustParseAddrPort("192.0.2.1:80")

// ethernet is the addresses of a frame from the peer 02::09 to us.
var ethernet = [54]byte{0: 2, 5: 1, 6: 2, 11: 9}

// client is the address of crowd's n-th.
func client(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n / 50000)}), uint16(10000+n%50000))
}

func journalled(t *flow.Table, card int) []journal.Conn {
	var all []journal.Conn
	t.Journal(card, func(c *journal.Conn) { all = append(all, *c) })
	return all
}

func TestTheJournalHasWhatIsSynchronizedAndNotInTimeWait(t *testing.T) {
	c := newCrowd(100)
	c.bytes = ethernet
	c.show(0, true, flagSYN, 1000, 0) // half open
	c.end(1)                          // TIME-WAIT
	open := func(n uint32) {
		c.show(n, true, flagSYN, 1000, 0)
		c.show(n, false, flagSYN|flagACK, 5000, 1001)
		c.show(n, true, flagACK, 1001, 5001)
	}
	open(2) // ESTABLISHED
	open(3) // FIN-WAIT-2
	c.show(3, false, flagFIN|flagACK, 5001, 1001)
	c.show(3, true, flagACK, 1001, 5002)
	open(4) // reset by the peer
	c.show(4, true, flagRST|flagACK, 1001, 5001)
	got := journalled(c.table, 0)
	slices.SortFunc(got, func(a, b journal.Conn) int { return a.Remote.Compare(b.Remote) })
	want := []journal.Conn{
		{Local: box, Remote: client(2), Seq: 5000, Ack: 1001, Window: 0xff00, MAC: [6]byte{2, 5: 9}},
		{Local: box, Remote: client(3), Seq: 5001, Ack: 1001, Window: 0xff00, MAC: [6]byte{2, 5: 9}},
	}
	if !slices.Equal(got, want) {
		t.Errorf("the journal has\n%+v, want\n%+v", got, want)
	}
	if n := len(journalled(c.table, 1)); n != 0 {
		t.Errorf("another card's journal has %d", n)
	}
}

// Traffic alone is no reason to write, a gigabyte of it is.
func TestASetChangesWithTheConnectionsNotWithTheirTraffic(t *testing.T) {
	c := newCrowd(100)
	set := func() flow.Set { return c.table.Sets()[0] }
	open := func(n uint32) {
		c.show(n, true, flagSYN, 1000, 0)
		c.show(n, false, flagSYN|flagACK, 5000, 1001)
		c.show(n, true, flagACK, 1001, 5001)
	}
	empty := set()
	open(1)
	one := set()
	if empty.N != 0 || one.N != 1 || empty.Sum == one.Sum {
		t.Fatalf("got sets %v and %v of nothing and of one connection", empty, one)
	}
	c.show(1, false, flagACK, 5001, 2001)
	c.show(1, true, flagACK, 2001, 5001)
	if got := set(); got != one {
		t.Errorf("traffic makes the set %v of %v", got, one)
	}
	open(2)
	if got := set(); got.N != 2 || got.Sum == one.Sum {
		t.Errorf("a second connection makes the set %v of %v", got, one)
	}
	c.show(2, true, flagRST|flagACK, 1001, 5001)
	if got := set(); got != one {
		t.Errorf("without the second it is %v, was %v", got, one)
	}
	for sent := uint32(0); sent < 1<<30; sent += 32768 {
		if got := set(); got != one {
			t.Fatalf("%d bytes later the set is %v, was %v", sent, got, one)
		}
		c.sendData(1, 5001+sent, 32768)
		c.show(1, true, flagACK, 2001, 5001+sent+32768)
	}
	if got := set(); got.N != 1 || got.Sum == one.Sum {
		t.Errorf("a gigabyte later the set is still %v", got)
	}
	c.show(1, true, flagRST|flagACK, 2001, 5001)
	c.show(1, true, flagSYN, 1000, 0)
	c.show(1, false, flagSYN|flagACK, 905000, 1001)
	c.show(1, true, flagACK, 1001, 905001)
	if got := set(); got.Sum == one.Sum {
		t.Error("a new connection with the ports of the old one counts as the same")
	}
}

// sendData shows the card a segment of ours that says it has so much data.
func (c *crowd) sendData(n, seq, size uint32) {
	c.frame = frame.Frame{Eth: c.bytes[:14], Net: c.bytes[14:], Meta: frame.Header{Flags: frame.DataValid}}
	c.show(n, false, flagACK, seq, 2001) // writes the frame
	binary.BigEndian.PutUint16(c.frame.Net[2:], uint16(40+size))
	c.card.Outbound(&c.frame)
}

// sweepRig is a table that has come up after a crash, and what it sends.
type sweepRig struct {
	*testing.T
	crowd
	mu   sync.Mutex
	sent []probe
}

type probe struct {
	at       time.Time
	eth      string
	remote   netip.AddrPort
	flags    byte
	seq, ack uint32
}

func newSweepRig(t *testing.T, conns []journal.Conn) *sweepRig {
	t.Helper()
	r := &sweepRig{T: t}
	r.bytes = ethernet
	r.table = flow.New(flow.Options{Policies: map[string]config.Policy{"default": config.DefaultPolicy()}})
	r.table.Listen(box, "default")
	r.card = r.table.Card()
	r.card.Own([6]byte{2, 5: 1})
	r.card.Start(func(_ frame.Header, eth, p []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sent = append(r.sent, probe{time.Now(), fmt.Sprintf("%x", eth), netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:])), binary.BigEndian.Uint16(p[22:])),
			p[33], binary.BigEndian.Uint32(p[24:]), binary.BigEndian.Uint32(p[28:])})
	})
	now, err := journal.Now()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := journal.Create(journal.Alive, dir, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range conns {
		w.Add(&conns[i])
	}
	if err := w.Commit(now); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Load(journal.Alive, dir, "eth0", now)
	if err != nil {
		t.Fatal(err)
	}
	r.table.Recall(0, j, func(a netip.Addr) bool { return a == box.Addr() })
	return r
}

func left(n int) []journal.Conn {
	all := make([]journal.Conn, n)
	for i := range all {
		all[i] = journal.Conn{Local: box, Remote: client(i), Seq: 5000, Ack: 1001, MAC: [6]byte{2, 5: 9}}
	}
	return all
}

func (r *sweepRig) questions() []probe {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// What becomes of each connection that a journal has, and what is counted.
func TestASweepTellsWhatBecameOfEachConnection(t *testing.T) {
	const answers, early, gone, again, skipped, taken, tagged, silent = 0, 1, 2, 3, 4, 5, 6, 7
	conns := left(8)
	conns[skipped].Local = netip.MustParseAddrPort("192.0.2.99:80")
	conns[tagged].Tagged, conns[tagged].VLAN = true, 42
	r := newSweepRig(t, conns)

	// Before the first question: data of a peer, a new connection of another.
	if v := r.show(early, true, flagACK, 1001, 5001); v != frame.Reply {
		t.Errorf("an early segment gets verdict %d, want an answer", v)
	}
	r.bytes = ethernet // the answer has turned it round
	r.show(taken, true, flagSYN, 9000, 0)
	over := make(chan flow.SweepReport)
	go func() { over <- r.table.Sweep(t.Context()) }()
	within(t, "all are asked", func() bool { return len(r.questions()) >= 5 })
	for _, q := range r.questions() {
		want := "020000000009" + "020000000001" + "0800"
		if q.remote == client(tagged) {
			want = "020000000009" + "020000000001" + "8100002a" + "0800"
		}
		if q.eth != want || q.flags != flagACK || q.seq != 5000 || q.ack != 1001 {
			t.Errorf("the question is %+v, want <SEQ=5000><ACK=1001><CTL=ACK> behind %s", q, want)
		}
	}

	// The answers: an ACK, a RST, a RST that is not exact, a SYN.
	if v := r.show(answers, true, flagACK, 1001, 7777); v != frame.Reply {
		t.Errorf("an answer gets verdict %d, want RST", v)
	}
	p := r.frame.Net
	if seq, bits := binary.BigEndian.Uint32(p[24:]), p[33]; seq != 7777 || bits != flagRST || binary.BigEndian.Uint32(p[28:]) != 0 {
		t.Errorf("the answer gets <SEQ=%d> with flags %#x, want <SEQ=7777><CTL=RST>", seq, bits)
	}
	if v := r.show(answers, true, flagACK, 1001, 7777); v != frame.Pass {
		t.Errorf("a second answer gets verdict %d: it is gVisor's", v)
	}
	r.show(gone, true, flagRST, 1001, 0)
	r.show(tagged, true, flagRST, 1001, 0)
	r.show(silent, true, flagRST, 999_999, 0) // of somebody who guesses
	r.show(again, true, flagSYN, 9000, 0)
	if got, ok := r.table.Swept(); !ok || got.Over || got.Left != 1 || len(journalled(r.table, 0)) != 1 {
		t.Errorf("in between the report is %+v, and the next journal has %v; want the silent one left in both", got, journalled(r.table, 0))
	}
	got := <-over
	want := flow.SweepReport{Found: 8, Asked: 5, Ended: 2, Gone: 4, Silent: 1, Skipped: 1, Over: true}
	if got.Took < 2*time.Second {
		t.Errorf("it took %v: a silent peer is asked twice, a second apart", got.Took)
	}
	got.Took = 0
	if got != want {
		t.Errorf("the report is\n%+v, want\n%+v", got, want)
	}
	if q := r.questions(); len(q) != 6 || q[5].remote != client(silent) || q[5].at.Sub(q[0].at) < time.Second {
		t.Errorf("the questions are %+v, want one more for the silent one after a second", q)
	}
	if v := r.show(silent, true, flagACK, 1001, 5001); v != frame.Pass {
		t.Errorf("after the sweep a segment of no connection gets verdict %d: it is gVisor's", v)
	}
}

// One that dials the same ports in the meantime is left in peace.
func TestASweepLeavesNewConnectionsAlone(t *testing.T) {
	r := newSweepRig(t, left(1))
	r.table.Adopt(box, client(0), 7, "default", false)
	if got := r.table.Sweep(t.Context()); got.Skipped != 1 || got.Asked != 0 || len(r.questions()) != 0 {
		t.Errorf("the report is %+v, with questions %v", got, r.questions())
	}
}

func TestASweepIsPacedAndCanBeStopped(t *testing.T) {
	r := newSweepRig(t, left(20_000))
	ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer cancel()
	got := r.table.Sweep(ctx)
	if n := len(r.questions()); n != got.Asked || n < 1000 || n > 4100 {
		t.Errorf("%d questions in 0.9 s, %d reported; want 4000 a second and a burst of 400 at most", n, got.Asked)
	}
	if got.Left != 20_000 || got.Silent != 0 || !got.Over {
		t.Errorf("the report is %+v", got)
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 5s still not so: %s", what)
		}
	}
}
