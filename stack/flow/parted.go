package flow

import (
	"sync"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// How the table ends a carried connection by its own will:
//
//	carried -- End "fin" --> shut: windows are closed until nothing is under way
//	        -- End "turn" -> turning: until an answer is over, shut if that takes long: nothing has
//	           moved for a while after it was acknowledged, or the client asks again, unheard
//	        -- a moment in which nothing is under way --> parted: FIN to both peers
//	parted: each peer is answered alone, our FIN repeated, what it still sends dropped
//	        -- both have ended, or RST when the grace is over --> told to the owner
//
// The table holds no byte of the stream, so a FIN can go out only when all that
// was sent before is acknowledged.

// ends are the ends that wait for such a moment: few, and for a short time.
type ends struct {
	mu sync.Mutex // guards of; taken with shards locked
	of map[key]*end
}

// end is how a connection is to end, under the key of its client's leg.
type end struct {
	why   tcpinfo.Rule
	by    uint32 // millisecond of the table: patience is over
	grace time.Duration
	turn  bool
	still uint32 // turning: millisecond since which nothing is under way behind an answer; 0 is not so
}

// answerPause is for how long nothing must move after an answer for it to be over:
// its next segment may be on its way.
const answerPause = 20 * time.Millisecond

func (e *ends) init() { e.of = make(map[key]*end) }

func (e *ends) get(k *key) (end, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if one := e.of[*k]; one != nil {
		return *one, true
	}
	return end{}, false
}

func (e *ends) put(k *key, one end) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of[*k] = &one
}

func (e *ends) take(k *key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of, *k)
}

func milliseconds(d time.Duration) uint32 { return uint32(max(d, 0).Milliseconds()) }

// End ends a carried connection. It reports whether it was there.
func (t *Table) End(ref tcpinfo.CarriedRef, how tcpinfo.CarriedEnd) bool {
	p, ok := t.lockRef(ref)
	if !ok {
		return false
	}
	now := t.now()
	p.endBy(how, now)
	p.unlock()
	p.speak()
	return true
}

func (p *pairing) endBy(how tcpinfo.CarriedEnd, now instant) {
	by := now.ms + milliseconds(how.Grace)
	switch {
	case how.How == "rst", !p.client.state.synchronized() || !p.other.state.synchronized():
		p.blame(how.Why)
		p.resetBoth(now)
	case p.client.has(parted):
		for _, f := range [...]*Flow{p.f, p.m} {
			if int32(by-f.partedBy()) < 0 {
				f.partBy(by)
				p.rearm(f, now)
			}
		}
	case how.How == "turn":
		p.wait(end{how.Why, now.ms + milliseconds(how.Patience), how.Grace, true, 0}, turning, now)
		if p.quiet() {
			p.turned(now)
		}
	case p.quiet():
		p.part(how.Why, by, now)
	default:
		p.wait(end{how.Why, now.ms + milliseconds(how.Patience), how.Grace, false, 0}, shut, now)
	}
}

// wait notes an end that has to wait.
func (p *pairing) wait(e end, how flags, now instant) {
	if old, ok := p.t.ends.get(&p.client.key); ok && (!old.turn && e.turn || int32(old.by-e.by) < 0 && old.turn == e.turn) {
		return // it ends sooner already
	}
	p.t.ends.put(&p.client.key, e)
	for _, f := range [...]*Flow{p.f, p.m} {
		f.flags = f.flags&^(shut|turning) | how
		p.rearm(f, now)
	}
}

// turned is called when nothing is under way on a connection that is to end.
func (p *pairing) turned(now instant) {
	e, ok := p.t.ends.get(&p.client.key)
	switch {
	case !ok:
	case !e.turn:
		p.partFor(&e, now)
	case p.client.has(answeredLast):
		e.still = max(now.ms, 1)
		p.t.ends.put(&p.client.key, e)
		p.sooner(p.client, now) // never later: quiet moments may follow each other for ever
	}
}

// asksAgain reports whether a segment begins a request behind an answer.
func (p *pairing) asksAgain(s *segment) bool {
	return p.f == p.client && p.client.has(answeredLast) && p.quiet() && s.size > 0 && s.seq == p.f.expected(p.m)
}

// partTurning parts a connection that waits for the end of an answer.
func (p *pairing) partTurning(now instant) bool {
	e, ok := p.t.ends.get(&p.client.key)
	if ok {
		p.partFor(&e, now)
	}
	return ok
}

// impatient is called when an end has waited long enough.
func (p *pairing) impatient(now instant) {
	e, ok := p.t.ends.get(&p.client.key)
	switch {
	case !ok:
	case e.turn && int32(now.ms-e.by) < 0 && !(p.quiet() && p.client.has(answeredLast)):
		e.still = 0 // it has gone on
		p.t.ends.put(&p.client.key, e)
		p.rearm(p.client, now)
	case p.quiet():
		p.partFor(&e, now)
	case e.turn:
		more := max(e.grace/2, 100*time.Millisecond)
		p.t.ends.take(&p.client.key)
		p.wait(end{e.why, now.ms + milliseconds(more), e.grace - more, false, 0}, shut, now)
	default:
		p.blame(e.why)
		p.resetBoth(now)
	}
}

// blame notes the rule that ends both legs.
func (p *pairing) blame(why tcpinfo.Rule) {
	for _, f := range [...]*Flow{p.f, p.m} {
		if f.endedBy == 0 {
			f.endedBy = ruleNumber(why)
		}
	}
}

// partFor parts a connection whose end has waited for this moment.
func (p *pairing) partFor(e *end, now instant) {
	p.part(e.why, now.ms+milliseconds(e.grace), now)
}

// part sends both peers our FIN, as far as they have not got the other's. From now
// on they are answered one by one, until by.
func (p *pairing) part(why tcpinfo.Rule, by uint32, now instant) {
	p.t.ends.take(&p.client.key)
	p.blame(why)
	for _, f := range [...]*Flow{p.f, p.m} {
		f.flags = f.flags&^(shut|turning) | parted
		f.partBy(by)
		if f.over() {
			continue
		}
		a := f.answer(now)
		a.window, a.fin = 0xffff, !f.has(finSent)
		p.say(f, a, now)
	}
	p.settle(p.f, now)
	p.settle(p.m, now)
}

// resetBoth resets who has not ended, and is the end.
func (p *pairing) resetBoth(now instant) {
	for _, f := range [...]*Flow{p.f, p.m} {
		if f.over() {
			continue
		}
		p.say(f, f.reset(now), now)
		f.enter(Closed, now)
	}
	p.conclude(now)
}

// alone answers a segment of a peer whose connection is parted.
func (p *pairing) alone(s *segment, now instant) (a answer, v frame.Verdict) {
	f := p.f
	was := f.state
	f.received(s, now)
	if s.length() > 0 && !after(s.seq, f.rcvNxt) && after(s.end(), f.rcvNxt) {
		f.acknowledged(s.end(), now)
	}
	a, v = f.answer(now), frame.Consume
	if s.length() > 0 || before(s.seq, f.rcvNxt) { // a keepalive probe has none
		v = frame.Reply
	}
	switch {
	case f.state == was:
	case f.over() && p.m.over():
		p.conclude(now)
	default:
		p.settle(f, now)
	}
	return a, v
}

// finRTO is the first retransmission timeout of a FIN of the table's own, which
// knows no round-trip time of the peer; twice as long each time (RFC 6298, 5.5).
const finRTO = 300 * time.Millisecond

// repeatFIN is when the FIN of a parted leg is sent again.
func (t *Table) repeatFIN(f *Flow) uint32 {
	r := t.policy(f.policy).Retransmit
	rto := max(finRTO, r.MinRTO)
	if r.MaxRTO > 0 {
		rto = min(rto, r.MaxRTO)
	}
	return f.finAt + milliseconds(rto)*(1<<(min(f.finRetrans, 12)+1)-1)
}
