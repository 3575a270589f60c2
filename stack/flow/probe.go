package flow

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// probeEvery and probeMost: Linux answers one segment in 500 ms that is out of
// its window (net.ipv4.tcp_invalid_ratelimit), so that a keepalive of gVisor's
// just before may have used that up.
const (
	probeEvery = time.Second
	probeMost  = 3
)

// probes are the questions that wait for an answer: few, and rarely any.
type probes struct {
	n  atomic.Int32
	mu sync.Mutex // guards the rest; taken with no shard's lock held
	of map[key]*probe
}

type probe struct {
	id     uint64
	first  int64 // nanoseconds of the table
	last   int64
	sent   int
	scale  int8
	asking []func(tcpinfo.Probe)
}

func (p *probes) init() { p.of = make(map[key]*probe) }

// Probe sends a keepalive segment (RFC 9293, 3.8.4) for a connection now, and
// tells done what came of it.
func (t *Table) Probe(local, remote netip.AddrPort, id uint64, done func(tcpinfo.Probe)) {
	k := keyOf(local, remote)
	now := t.now()
	t.probes.mu.Lock()
	if p := t.probes.of[k]; p != nil && p.id == id {
		p.asking = append(p.asking, done)
		t.probes.mu.Unlock()
		return
	}
	p := &probe{id: id, first: now.ns, last: now.ns, sent: 1, asking: []func(tcpinfo.Probe){done}}
	t.probes.of[k] = p
	t.probes.n.Add(1)
	t.probes.mu.Unlock()
	if scale, sent := t.ask(&k, id, now); sent {
		t.probes.mu.Lock()
		p.scale = scale
		t.probes.mu.Unlock()
		t.wind()
		return
	}
	if t.probes.take(&k, p) {
		p.tell(tcpinfo.Probe{Alive: tcpinfo.NotProbed})
	}
}

// take removes a probe, if nobody else did.
func (p *probes) take(k *key, one *probe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[*k] != one {
		return false
	}
	delete(p.of, *k)
	p.n.Add(-1)
	return true
}

func (p *probe) tell(result tcpinfo.Probe) {
	for _, done := range p.asking {
		done(result)
	}
}

// ask sends one keepalive segment: the byte before what is next, without data.
func (t *Table) ask(k *key, id uint64, now instant) (scale int8, sent bool) {
	sh, h := t.shard(k)
	sh.mu.Lock()
	f, _ := sh.find(k, h)
	if f == nil || f.id != id || !f.state.synchronized() || !f.has(synsSeen) || f.state == TimeWait {
		sh.mu.Unlock()
		return 0, false
	}
	a := f.answer(now)
	a.seq = f.sndUna - 1
	w := f.word(a)
	scale = f.sndScale
	sh.mu.Unlock()
	t.Count.Probes.Add(1)
	return scale, t.put(&w)
}

// put sends a segment of the table's own to a peer. It is false for a card that
// does not send.
func (t *Table) put(w *word) bool {
	cards := t.cards.Load()
	if cards == nil || w.card >= len(*cards) {
		return false
	}
	c := (*cards)[w.card]
	send, own := c.send.Load(), c.mac.Load()
	if send == nil || own == nil {
		return false
	}
	e := envelope{own: *own, peer: w.mac, tagged: w.tagged, vlan: w.vlan, mark: t.mark(w.policy)}
	p := make([]byte, ethernetMost+ipMost+w.a.size())
	at := e.ethernet(p, &w.key)
	eth, packet := p[:at], p[at:]
	at = e.mark.put(packet, &w.key, w.a.size())
	w.a.put(packet[at:], &w.key)
	(*send)(frame.Header{}, eth, packet[:at+w.a.size()])
	return true
}

// answered takes any segment of the peer's as the answer it waits for.
func (p *probes) answered(s *segment, now instant) {
	p.mu.Lock()
	one := p.of[s.key]
	if one == nil {
		p.mu.Unlock()
		return
	}
	delete(p.of, s.key)
	p.n.Add(-1)
	r := tcpinfo.Probe{Alive: tcpinfo.Answers, RTT: time.Duration(now.ns - one.last), Window: uint32(s.window), Sent: one.sent}
	if one.scale > 0 {
		r.Window <<= uint(one.scale)
	}
	p.mu.Unlock()
	switch {
	case s.flags&rst != 0:
		r.Alive, r.Window = tcpinfo.WasReset, 0
	case s.window == 0:
		r.Alive = tcpinfo.NotReading
	}
	one.tell(r)
}

// tick repeats questions without an answer, and gives up. It reports whether
// some are still asked.
func (p *probes) tick(t *Table) bool {
	if p.n.Load() == 0 {
		return false
	}
	now := t.now()
	var repeat []key
	var ids []uint64
	var over []*probe
	p.mu.Lock()
	for k, one := range p.of {
		switch {
		case now.ns-one.last < int64(probeEvery):
		case one.sent >= probeMost:
			delete(p.of, k)
			p.n.Add(-1)
			over = append(over, one)
		default:
			one.last, one.sent = now.ns, one.sent+1
			repeat, ids = append(repeat, k), append(ids, one.id)
		}
	}
	p.mu.Unlock()
	for i := range repeat {
		t.ask(&repeat[i], ids[i], now)
	}
	for _, one := range over {
		one.tell(tcpinfo.Probe{Alive: tcpinfo.NoAnswer, Sent: one.sent})
	}
	return p.n.Load() > 0
}
