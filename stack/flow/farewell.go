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
	all []word
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
		w.all = append(w.all, f.word(answer{rst: true, seq: s.seq, ts: s.ts, tsVal: s.tsVal, tsEcr: s.tsEcr}))
	}
}

// RepeatResets sends what KeepResets has noted again, so many times and each
// time after a pause, in which the stack answers peers that found the first one
// not exact (RFC 5961, 3.2). It returns how many connections those are; with ctx
// it ends early.
func (t *Table) RepeatResets(ctx context.Context, times int, pause time.Duration) int {
	t.farewell.mu.Lock()
	all := t.farewell.all
	t.farewell.mu.Unlock()
	if len(all) == 0 {
		return 0
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for range times {
		select {
		case <-ctx.Done():
			return len(all)
		case <-tick.C:
		}
		for i := range all {
			r := &all[i]
			t.put(r)
		}
	}
	select { // the last answers
	case <-ctx.Done():
	case <-tick.C:
	}
	return len(all)
}
