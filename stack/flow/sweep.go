package flow

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/netif/frame"
)

// How fast a sweep asks: each question costs three small segments, and the
// clients of the connections that it ends come back as new ones meanwhile.
const (
	sweepRate  = 4000 // questions a second
	sweepBurst = 400  // at once
	sweepStep  = 5 * time.Millisecond
)

// sweepPatience is how long a peer has to answer, and when it is asked once
// more: Linux answers one segment in 500 ms that is out of its window.
const sweepPatience = time.Second

// SweepReport is what has become of the connections of a crash.
type SweepReport struct {
	Found   int           // connections that were alive when we were gone
	Asked   int           // peers that were sent a segment, some of them twice
	Ended   int           // answered, and were told with RST
	Gone    int           // knew already: they answered with RST, or with a SYN for a new connection
	Silent  int           // did not answer twice
	Skipped int           // not asked: the address is not ours any more, or the ports are in use by a new connection
	Left    int           // not known yet, or never if the sweep was stopped
	Took    time.Duration // since the first question
	Over    bool
}

// sweep ends connections that only their peers still believe in.
type sweep struct {
	n     atomic.Int32 // entries of left: 0 but for the first seconds after a crash
	mu    sync.Mutex   // guards the rest; taken with no shard's lock held
	left  map[key]memo
	order []key
	at    instant // when left was filled: the timestamps are of then
	began int64   // nanoseconds of the table; 0 before Sweep
	told  SweepReport
}

// Recall tells of the connections that a crash has cut off, as a card's journal
// knows them; ours reports whether the card still has an address. From now on
// their peers get the exact RST for whatever they send. The caller sees to it
// that Sweep comes next, and once.
func (t *Table) Recall(card int, j *journal.Journal, ours func(netip.Addr) bool) {
	w := &t.sweep
	now := t.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == nil {
		w.left, w.at = make(map[key]memo, j.Len()), now
	}
	for c := range j.All() {
		w.told.Found++
		m := recall(card, c, uint32(j.Age.Milliseconds())-(now.ms-w.at.ms))
		if _, twice := w.left[m.key]; twice || !ours(c.Local.Addr()) || !m.key.sane() {
			w.told.Skipped++
			continue
		}
		w.left[m.key] = m
		w.order = append(w.order, m.key)
	}
	w.n.Store(int32(len(w.left)))
}

// Disown forgets what Recall has told of an address that is not ours any more: the
// peers of its connections are not asked.
func (t *Table) Disown(a netip.Addr) {
	w := &t.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.left {
		if k.localAddr().Addr() == a {
			delete(w.left, k)
			w.told.Skipped++
		}
	}
	w.n.Store(int32(len(w.left)))
}

// Sweep asks the peers of the connections that Recall has told of, each with an
// ACK that is never acceptable: it lies one before what the peer has
// acknowledged. One that still believes in its connection answers with an ACK
// (RFC 9293, 3.10.7.4), which tells the exact sequence number, and gets RST
// with that. Sweep returns when nothing is left to be known, or with ctx.
func (t *Table) Sweep(ctx context.Context) SweepReport {
	w := &t.sweep
	w.mu.Lock()
	order := w.order
	w.began = max(t.now().ns, 1)
	w.mu.Unlock()
	pace := pacer{t: t, last: t.now().ns, tokens: sweepBurst}
	asked := make([]int64, len(order)) // when, in nanoseconds of the table
	first, again := 0, 0
	last := t.now().ns // question
	for w.n.Load() > 0 {
		now := t.now()
		var k *key
		fresh := false
		switch {
		case again < first && now.ns-asked[again] >= int64(sweepPatience):
			k = &order[again]
			again++
		case first < len(order):
			k, fresh = &order[first], true
			asked[first] = now.ns
			first++
		case again == len(order) && now.ns-last >= int64(sweepPatience):
			return t.swept(true)
		default:
			if !pause(ctx, sweepStep) {
				return t.swept(false)
			}
			continue
		}
		m, ok := w.wanted(t, k)
		if !ok {
			continue
		}
		if !pace.wait(ctx) {
			return t.swept(false)
		}
		last = t.now().ns
		if w.ask(t, &m) && fresh {
			w.mu.Lock()
			w.told.Asked++
			w.mu.Unlock()
		}
	}
	return t.swept(true)
}

// wanted is what to ask a peer, unless its answer is known or nobody wants it:
// a new connection has the ports, and ends the old one by itself.
func (w *sweep) wanted(t *Table, k *key) (m memo, ok bool) {
	w.mu.Lock()
	m, ok = w.left[*k]
	at := w.at
	w.mu.Unlock()
	if !ok {
		return m, false
	}
	if t.lives(k) {
		w.settle(k, &w.told.Skipped)
		return m, false
	}
	m.tsVal += t.now().ms - at.ms
	return m, true
}

// lives reports whether the table knows a flow.
func (t *Table) lives(k *key) bool {
	sh, h := t.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f, _ := sh.find(k, h)
	return f != nil
}

// settle counts a connection whose fate is known, if nobody else did.
func (w *sweep) settle(k *key, as *int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.left[*k]; !ok {
		return false
	}
	delete(w.left, *k)
	w.n.Add(-1)
	*as++
	return true
}

func (w *sweep) ask(t *Table, m *memo) bool {
	policy, _ := t.listener(m.key.localAddr()) // what a journal does not know
	return t.put(&word{m.key, answer{
		seq: m.seq, ack: m.ack, window: m.window, ts: m.flags&timestamps != 0, tsVal: m.tsVal, tsEcr: m.tsRecent,
	}, policy, int(m.card), m.mac, m.flags&tagged != 0, m.vlan})
}

// hear takes a segment of no connection that is known. If its peer is to be told
// that ours is over, that is the answer: <SEQ=SEG.ACK><CTL=RST>, with a
// timestamp if the peer's has one (RFC 7323, 3.2). gVisor would tell the same, but
// has to ask for the neighbour's address first, for 64 neighbours and with 256
// packets each at once: the rest of the RSTs of a sweep would be lost.
func (w *sweep) hear(s *segment, now instant) (a answer, reset bool) {
	w.mu.Lock()
	m, ok := w.left[s.key]
	at := w.at
	w.mu.Unlock()
	switch {
	case !ok:
	case s.flags&rst != 0:
		if s.seq == m.ack { // what our question has asked for (RFC 9293, 3.10.7.1)
			w.settle(&s.key, &w.told.Gone)
		}
	case s.is(syn|ack, syn):
		w.settle(&s.key, &w.told.Gone)
	case s.is(syn|ack, ack):
		a = answer{rst: true, seq: s.ack, ts: s.ts, tsVal: m.tsVal + now.ms - at.ms, tsEcr: s.tsVal}
		return a, w.settle(&s.key, &w.told.Ended)
	}
	return a, false
}

// memos fills in what is left of some connections, for the next journal: we may
// crash again before it is known. more is false behind the last.
func (w *sweep) memos(at int, now instant, to *[chunkSize]memo) (n int, more bool) {
	if w.n.Load() == 0 {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at >= len(w.order) {
		return 0, false
	}
	for i := range w.order[at:min(at+len(to), len(w.order))] {
		if m, ok := w.left[w.order[at+i]]; ok {
			m.tsVal += now.ms - w.at.ms
			to[n] = m
			n++
		}
	}
	return n, true
}

// swept ends the sweep: those that did not answer twice are silent, unless it
// was stopped before all were asked.
func (t *Table) swept(whole bool) SweepReport {
	w := &t.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Over = true
	if whole {
		w.told.Silent = len(w.left)
	} else {
		w.told.Left = len(w.left)
	}
	w.told.Took = time.Duration(t.now().ns - w.began)
	w.left, w.order = nil, nil
	w.n.Store(0)
	return w.told
}

// Swept is how far a sweep has come; false if there was nothing to sweep.
func (t *Table) Swept() (SweepReport, bool) {
	w := &t.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.told
	if !r.Over {
		r.Left = len(w.left)
		if w.began != 0 {
			r.Took = time.Duration(t.now().ns - w.began)
		}
	}
	return r, r.Found > 0
}

// pacer lets sweepRate questions a second pass.
type pacer struct {
	t      *Table
	last   int64 // nanoseconds of the table
	tokens float64
}

// wait returns when the next question may go; false if ctx ends before.
func (p *pacer) wait(ctx context.Context) bool {
	for {
		now := p.t.now().ns
		p.tokens = min(p.tokens+float64(now-p.last)*sweepRate/1e9, sweepBurst)
		p.last = now
		if p.tokens >= 1 {
			p.tokens--
			return ctx.Err() == nil
		}
		if !pause(ctx, sweepStep) {
			return false
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hangUp answers a peer that still believes in a connection of before a crash.
func (t *Table) hangUp(f *frame.Frame, l frame.Layout, s *segment, now instant) frame.Verdict {
	if !valid(f, l) {
		return frame.Pass
	}
	a, reset := t.sweep.hear(s, now)
	if !reset {
		return frame.Pass
	}
	policy, _ := t.listener(s.key.localAddr())
	a.write(f, &s.key, t.mark(policy))
	return frame.Reply
}
