package conformance

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/stack/flow"
)

// cut makes a connection with a peer that has survived a crash of the box: the
// peer is at 5000 of its own and has acknowledged 700 of ours, and the journal
// of ten seconds ago tells so.
func (b *box) cut(t *testing.T, p *peer) {
	t.Helper()
	p.irs = 3_000_000
	now, err := journal.Now()
	if err != nil {
		t.Fatal(err)
	}
	before := now
	before.Up -= 10 * time.Second
	dir := t.TempDir()
	w, err := journal.Create(journal.Alive, dir, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	w.Add(&journal.Conn{Local: p.to, Remote: p.from, Seq: p.irs + 700, Ack: p.iss + 5000, Window: 1000,
		Timestamps: p.ts, TSVal: 90_000_000, TSRecent: peerTS, MAC: [6]byte(b.peerMAC)})
	if err := w.Commit(before); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Load(journal.Alive, dir, "eth0", now)
	if err != nil {
		t.Fatal(err)
	}
	b.flows.Recall(0, j, func(a netip.Addr) bool { return a == box4 || a == box6 })
}

// sweep begins one, and gives its report when it is over.
func (b *box) sweep(t *testing.T) func() flow.SweepReport {
	t.Helper()
	over := make(chan flow.SweepReport, 1)
	go func() { over <- b.flows.Sweep(t.Context()) }()
	return func() flow.SweepReport {
		t.Helper()
		select {
		case r := <-over:
			r.Took = 0
			return r
		case <-time.After(10 * time.Second):
			t.Fatal("the sweep does not end")
		}
		return flow.SweepReport{}
	}
}

// After a crash each peer is asked once and, when it answers where it is (RFC
// 9293, 3.10.7.4), reset with exactly that number (3.10.7.1, 3.10.7.2): in IPv4
// and IPv6, with and without timestamps, whether somebody listens again or not.
func TestAfterACrashAPeerGetsTheExactRST(t *testing.T) {
	t.Parallel()
	for _, to := range []netip.Addr{box4, box6} {
		for name, c := range map[string]struct{ ts, listens bool }{
			"closed": {}, "listening": {listens: true}, "closed, timestamps": {ts: true}, "listening, timestamps": {ts: true, listens: true},
		} {
			t.Run(to.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				b := newBox(t, nil)
				if c.listens {
					b.listen(t, to)
				}
				p := b.peer(t, to, 5000)
				p.ts = c.ts
				b.cut(t, p)
				report := b.sweep(t)
				probe := p.expect("the question", anything)
				if probe.Flags != lab.ACK || probe.Len != 0 || !probe.Complete || probe.Seq-p.irs != 700 || probe.Ack-p.iss != 5000 {
					t.Errorf("the question is %v, want an ACK of 5000 at 700", probe)
				}
				stamp, has := optionOf(probe, 8)
				if has != c.ts {
					t.Errorf("the question has a timestamp: %v, want %v", has, c.ts)
				}
				if has {
					if val := binary.BigEndian.Uint32(stamp); val < 90_010_000 || val > 90_030_000 {
						t.Errorf("its timestamp is %d, want that of ten seconds after 90000000: PAWS would drop an older one", val)
					}
					p.ecr = binary.BigEndian.Uint32(stamp)
				}
				// It has sent 100 more and acknowledged 300 more since the journal was written.
				p.say(lab.ACK, 5100, 1001, "")
				s := p.expect("RST", anything)
				if s.Flags != lab.RST || s.Seq-p.irs != 1001 || s.Len != 0 || !s.Complete {
					t.Errorf("the answer gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
				}
				if stamp, has := optionOf(s, 8); has != c.ts || has && (binary.BigEndian.Uint32(stamp) < 90_010_000 || binary.BigEndian.Uint32(stamp[4:]) != p.val) {
					t.Errorf("the RST has the timestamp %x, want ours and an echo of %d if they were agreed: %v", stamp, p.val, c.ts)
				}
				if got := report(); got != (flow.SweepReport{Found: 1, Asked: 1, Ended: 1, Over: true}) {
					t.Errorf("the report is %+v", got)
				}
				// What comes later is gVisor's, which says the same.
				p.say(lab.ACK|lab.PSH, 5100, 1002, "late")
				if s := p.expect("RST", anything); s.Flags != lab.RST || s.Seq-p.irs != 1002 {
					t.Errorf("a late segment gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
				}
			})
		}
	}
}

// A peer that is gone is asked twice, a second apart, and one that knows already
// once.
func TestAfterACrashASilentPeerIsAskedTwice(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 5000)
	b.cut(t, p)
	report := b.sweep(t)
	first := p.expect("the question", anything)
	second := p.expect("the question again", anything)
	if gap := second.Time.Sub(first.Time); second.Seq != first.Seq || gap < 900*time.Millisecond {
		t.Errorf("the second question is %v, %v after %v", second, gap, first)
	}
	p.expectNothing("a third question", anything)
	if got := report(); got != (flow.SweepReport{Found: 1, Asked: 1, Silent: 1, Over: true}) {
		t.Errorf("the report is %+v", got)
	}

	other := newBox(t, nil)
	p = other.peer(t, box4, 5000)
	other.cut(t, p)
	report = other.sweep(t)
	p.expect("the question", anything)
	p.say(lab.RST, 5000, 0, "") // <SEQ=SEG.ACK><CTL=RST>
	if got := report(); got != (flow.SweepReport{Found: 1, Asked: 1, Gone: 1, Over: true}) {
		t.Errorf("the report is %+v", got)
	}
	p.expectNothing("an answer to a RST", anything)
}

// What the journal tells of a live connection is what the peer has said and been
// told: both directions of opening, IPv4 and IPv6.
func TestTheJournalTellsWhereAConnectionIs(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box6, modern()...)
	p.say(lab.ACK|lab.PSH, 1, 1, "hello")
	p.expectACK(1, 6)
	write(t, c, "welcome")
	p.expect("data", hasData)
	p.val += 100
	p.say(lab.ACK, 6, 8, "")
	dialled := b.peer(t, box4, 7000)
	d, _ := b.dial(t, dialled)
	dialled.say(lab.SYN|lab.ACK, 0, 1, "")
	dialled.expectACK(1, 1)
	if err := await(t, d, d.Established); err != nil {
		t.Fatal(err)
	}
	got := map[netip.AddrPort]journal.Conn{}
	within(t, 5*time.Second, "the ACK is noted", func() bool {
		b.flows.Journal(0, func(c *journal.Conn) { got[c.Remote] = *c })
		return got[p.from].Seq == p.irs+7
	})
	one, two := got[p.from], got[dialled.from]
	if one.TSVal-p.ecr > 60_000 { // it goes on by itself
		t.Errorf("our timestamp is %d, was %d", one.TSVal, p.ecr)
	}
	one.TSVal, one.Window, two.Window = 0, 0, 0 // our own affair
	if want := (journal.Conn{Local: p.to, Remote: p.from, Seq: p.irs + 7, Ack: p.iss + 6, Timestamps: true, TSRecent: peerTS + 100, MAC: [6]byte(b.peerMAC)}); one != want {
		t.Errorf("of the accepted one the journal has\n%+v, want\n%+v", one, want)
	}
	if want := (journal.Conn{Local: dialled.to, Remote: dialled.from, Seq: dialled.irs, Ack: dialled.iss + 1, MAC: [6]byte(b.peerMAC)}); two != want {
		t.Errorf("of the dialled one the journal has\n%+v, want\n%+v", two, want)
	}
	if len(got) != 2 {
		t.Errorf("the journal has %d connections", len(got))
	}
}
