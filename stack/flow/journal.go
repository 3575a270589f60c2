package flow

import (
	"math/bits"

	"github.com/lastack/lastack/internal/journal"
)

// memo is what a journal keeps of a flow, without pointers.
type memo struct {
	key      key
	seq, ack uint32
	tsVal    uint32
	tsRecent uint32
	birth    uint32 // tells a connection from a later one with the same ports
	window   uint16
	vlan     uint16
	mac      [6]byte
	flags    flags // timestamps and tagged
	card     uint8
}

// Set tells whether the connections of a card are others than before.
type Set struct {
	N   int    // connections
	Sum uint64 // differs if one has come or gone, moved by a gigabyte, or is reached in another way
}

// Sets tells of each card's connections what Journal would write, in the order
// in which the cards were made.
func (t *Table) Sets() []Set {
	var sets []Set
	if cards := t.cards.Load(); cards != nil {
		sets = make([]Set, len(*cards))
	}
	t.memos(func(m *memo) {
		if int(m.card) < len(sets) {
			sets[m.card].N++
			sets[m.card].Sum += m.sum(t.seed)
		}
	})
	return sets
}

// sum is a number for what is to be written anew when it changes. Sequence
// numbers move with every segment: an old one serves as well, until it is so
// old that it counts as new again, at two gigabytes.
func (m *memo) sum(seed uint64) uint64 {
	h := m.key.hash(seed)
	for _, part := range [...]uint64{
		uint64(m.birth)<<32 | uint64((m.seq-m.birth)>>30)<<16 | uint64(m.vlan),
		uint64(m.mac[0])<<40 | uint64(m.mac[1])<<32 | uint64(m.mac[2])<<24 | uint64(m.mac[3])<<16 | uint64(m.mac[4])<<8 | uint64(m.mac[5]),
	} {
		h = mix(h^part, 0x9e3779b97f4a7c15^seed)
	}
	return h
}

// Journal calls do with every connection of a card whose peer would have to be
// told if we were gone: those that are synchronized and not in TIME-WAIT, and
// those of an earlier crash that a Sweep has not ended yet. No lock is held
// meanwhile. The Conn is overwritten by the next one.
func (t *Table) Journal(card int, do func(*journal.Conn)) {
	var c journal.Conn
	t.memos(func(m *memo) {
		if int(m.card) == card {
			m.tell(&c)
			do(&c)
		}
	})
}

// memos calls do with what a journal keeps, with no lock held. A shard's lock is
// taken for one chunk at a time, a few microseconds, and others get the thread
// in between.
func (t *Table) memos(do func(*memo)) {
	var some [chunkSize]memo
	var others yielder
	for i := range t.shards {
		sh := &t.shards[i]
		for at := 0; ; at++ {
			n, more := sh.memos(at, t.now(), &some)
			if !more {
				break
			}
			for j := range n {
				do(&some[j])
			}
			others.pause()
		}
	}
	for at := 0; ; at += len(some) {
		n, more := t.sweep.memos(at, t.now(), &some)
		for j := range n {
			do(&some[j])
		}
		if !more {
			return
		}
	}
}

// memos fills in what is to be kept of one chunk; more is false behind the last.
func (s *shard) memos(at int, now instant, to *[chunkSize]memo) (n int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at >= len(s.chunks) {
		return 0, false
	}
	c := s.chunks[at]
	if c == nil {
		return 0, true
	}
	for used := c.used; used != 0; used &= used - 1 {
		if f := &c.flows[bits.TrailingZeros64(used)]; f.outlives() {
			to[n] = f.memo(now)
			n++
		}
	}
	return n, true
}

// outlives reports whether the peer would go on believing in the connection if
// we were gone.
func (f *Flow) outlives() bool {
	return f.state.synchronized() && f.state != TimeWait && !f.has(blind) && !f.has(rstSeen)
}

func (f *Flow) memo(now instant) memo {
	a := f.answer(now)
	m := memo{
		key: f.key, seq: f.sndUna - 1, ack: a.ack, window: a.window,
		birth: f.iss, mac: f.mac, vlan: f.vlan, flags: f.flags & (timestamps | tagged), card: f.card,
	}
	if a.ts {
		m.tsVal, m.tsRecent = a.tsVal, a.tsEcr
	}
	return m
}

func (m *memo) tell(c *journal.Conn) {
	*c = journal.Conn{
		Local: m.key.localAddr(), Remote: m.key.remoteAddr(), Seq: m.seq, Ack: m.ack, Window: m.window,
		Timestamps: m.flags&timestamps != 0, TSVal: m.tsVal, TSRecent: m.tsRecent,
		MAC: m.mac, Tagged: m.flags&tagged != 0, VLAN: m.vlan,
	}
}

// recall is the reverse of tell, after the given milliseconds.
func recall(card int, c *journal.Conn, age uint32) memo {
	m := memo{
		key: keyOf(c.Local, c.Remote), seq: c.Seq, ack: c.Ack, window: c.Window, tsVal: c.TSVal + age, tsRecent: c.TSRecent,
		mac: c.MAC, vlan: c.VLAN, card: uint8(card),
	}
	if c.Timestamps {
		m.flags |= timestamps
	}
	if c.Tagged {
		m.flags |= tagged
	}
	return m
}
