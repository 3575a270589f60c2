package flow

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// farewell keeps the RSTs that ended connections while the stack stops. A RST
// is sent once and acknowledged by nobody: who misses it, or finds it not exact
// because bytes before it were lost, believes in the connection for as long as
// it likes, and after the stop nobody would answer it.
type farewell struct {
	on  atomic.Bool
	mu  sync.Mutex // guards all
	all []parting
}

// parting is such a RST, and what else may be exact for the peer: what it has
// acknowledged, if the bytes after that were lost or found no room.
type parting struct {
	word
	acked uint32
}

// word is a segment of the table's own, and the way it goes.
type word struct {
	key    key
	a      answer
	policy uint16
	card   int
	mac    [6]byte
	tagged bool
	vlan   uint16
}

// word is an answer on its way to the flow's peer.
func (f *Flow) word(a answer) word {
	return word{f.key, a, f.policy, int(f.card), f.mac, f.has(tagged), f.vlan}
}

// resetsMost bounds them: some 8 MB.
const resetsMost = 65536

// KeepResets notes the RSTs that end connections from now on.
func (t *Table) KeepResets() { t.farewell.on.Store(true) }

// note keeps a segment of ours if it is such a RST. The flow's shard is locked.
func (w *farewell) note(f *Flow, s *segment) {
	if s.flags&rst == 0 || !w.on.Load() || !f.state.synchronized() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) < resetsMost {
		w.all = append(w.all, parting{f.word(answer{rst: true, seq: s.seq, ts: s.ts, tsVal: s.tsVal, tsEcr: s.tsEcr}), f.sndUna})
	}
}

// lately is how old a connection's TIME-WAIT may be, in milliseconds, for its last ACK
// to be said again: a peer that has missed it would have repeated its FIN by then.
const lately = 10_000

// lastACKs are those of connections that are in TIME-WAIT since lately, at most so
// many. A peer that misses its last ACK repeats its FIN, which after the stop nobody
// would answer.
func (t *Table) lastACKs(most int) (all []word) {
	var others yielder
	for i := range t.shards {
		sh := &t.shards[i]
		now := t.now()
		sh.mu.Lock()
		for _, c := range sh.chunks {
			if c == nil {
				continue
			}
			for j := range c.flows {
				f := &c.flows[j]
				if c.used&(1<<j) != 0 && f.state == TimeWait && now.ms-f.progress < lately && len(all) < most {
					all = append(all, f.word(f.answer(now)))
				}
			}
		}
		sh.mu.Unlock()
		others.pause()
	}
	return all
}

// RepeatResets sends what KeepResets has noted again, so many times and each
// time after a pause, in which the stack answers peers that found the first one
// not exact (RFC 5961, 3.2); with them the last ACKs of connections that have just
// ended in order. It returns how many were reset; with ctx it ends early.
func (t *Table) RepeatResets(ctx context.Context, times int, pause time.Duration) int {
	t.farewell.mu.Lock()
	all := t.farewell.all
	t.farewell.mu.Unlock()
	if len(all) == 0 {
		return 0
	}
	acks := t.lastACKs(resetsMost)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for range times {
		select {
		case <-ctx.Done():
			return len(all)
		case <-tick.C:
		}
		for i := range all {
			r := all[i].word
			t.put(&r)
			if r.a.seq != all[i].acked {
				r.a.seq = all[i].acked
				t.put(&r)
			}
		}
		for i := range acks {
			t.put(&acks[i])
		}
	}
	select { // the last answers
	case <-ctx.Done():
	case <-tick.C:
	}
	return len(all)
}
