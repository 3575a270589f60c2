package flow

import (
	"net/netip"

	"github.com/lastack/lastack/internal/journal"
)

// SaveTimeWaits calls do with every connection of a card that is in TIME-WAIT,
// and the time that is left of it. No lock is held meanwhile; the Conn is
// overwritten by the next one.
func (t *Table) SaveTimeWaits(card int, do func(*journal.Conn)) {
	var some [chunkSize]journal.Conn
	var others yielder
	for i := range t.shards {
		sh := &t.shards[i]
		for at := 0; ; at++ {
			n, more := t.saved(sh, at, card, &some)
			if !more {
				break
			}
			for j := range n {
				do(&some[j])
			}
			others.pause()
		}
	}
}

// saved fills in those of one chunk; more is false behind the last.
func (t *Table) saved(sh *shard, at, card int, to *[chunkSize]journal.Conn) (n int, more bool) {
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if at >= len(sh.chunks) {
		return 0, false
	}
	c := sh.chunks[at]
	if c == nil {
		return 0, true
	}
	for i := range c.flows {
		f := &c.flows[i]
		if c.used&(1<<i) == 0 || f.state != TimeWait || int(f.card) != card {
			continue
		}
		due, _, _ := t.deadline(f)
		left := int32(due - now.ms)
		if left <= 0 {
			continue
		}
		m := f.memo(now)
		m.seq = f.sndNxt
		m.tell(&to[n])
		to[n].Left = uint32(left)
		n++
	}
	return n, true
}

// RestoreTimeWaits goes on with connections of a card that were in TIME-WAIT when
// a journal was written: each for what is left of its time, and for no longer
// than its policy says now. policy names that of a local address. It returns how
// many there are; those of addresses that own refuses are left out.
func (t *Table) RestoreTimeWaits(card int, j *journal.Journal, own func(netip.Addr) bool, policy func(netip.AddrPort) string) (n int) {
	age := uint32(min(j.Age, journal.MaxAge).Milliseconds())
	for c := range j.All() {
		if c.Left > age && own(c.Local.Addr()) && t.restore(card, c, age, t.numberOf(policy(c.Local))) {
			n++
		}
	}
	return n
}

func (t *Table) restore(card int, c *journal.Conn, age uint32, policy uint16) bool {
	duration := t.policy(policy).TimeWait.Duration
	if duration <= 0 {
		return false // its policy does without
	}
	now := t.now()
	m := recall(card, c, age)
	sh, h := t.shard(&m.key)
	sh.mu.Lock()
	if known, _ := sh.find(&m.key, h); known != nil {
		sh.mu.Unlock()
		return false
	}
	f, slot := t.create(sh, &m.key, h, now)
	f.flags = m.flags | synsSeen | released | finSent | finAcked | peerFinSeen
	f.sndUna, f.sndNxt, f.rcvNxt, f.peerFin, f.finSeq = m.seq, m.seq, m.ack, m.ack-1, m.seq-1
	f.window, f.mac, f.vlan, f.card, f.policy = m.window, m.mac, m.vlan, m.card, policy
	f.tsRecent, f.tsRecentAt, f.tsLast, f.tsLastAt = m.tsRecent, now.ms, m.tsVal, now.ms
	f.enter(TimeWait, now)
	total := uint32(duration.Milliseconds())
	f.progress = now.ms - (total - min(c.Left-age, total))
	full := t.recount(sh, f, slot)
	t.rearm(sh, f, slot, now)
	sh.mu.Unlock()
	if full >= 0 {
		t.evict(full)
	}
	return true
}
