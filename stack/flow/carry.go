package flow

import (
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// The way of a segment of a carried connection, in the order of this file:
//
//	inboundTCP -> onLeg -> carry -> examine (RST, SYN, guard) -> received on its leg
//	           -> translated -> sent on the other leg -> advance (states, timers, the end)

// onLeg handles a segment of a carried connection. If it is none, or none any more, done is false,
// the shard of its key is locked, and f is the flow that it is of, if any.
func (c *Card) onLeg(sh *shard, hash uint32, fr *frame.Frame, l frame.Layout, s *segment, now instant) (f *Flow, slot uint32, v frame.Verdict, done bool) {
	for {
		sh.mu.Lock()
		f, slot = sh.find(&s.key, hash)
		switch {
		case f == nil || !f.has(carried):
			return f, slot, frame.Pass, false
		case !f.paired() || !valid(fr, l):
			sh.mu.Unlock()
			return nil, 0, frame.Drop, true // its backend is being chosen; or it is damaged
		}
		if p, ok := c.t.lockMate(sh, f, slot); ok {
			p.card = c.n
			if v = c.t.carry(&p, fr, l, s, now); !p.again {
				return nil, 0, v, true
			}
		}
	}
}

// carry handles a segment of a leg, with both legs locked, and unlocks them.
func (t *Table) carry(p *pairing, fr *frame.Frame, l frame.Layout, s *segment, now instant) frame.Verdict {
	if s.held {
		p.f.refresh(s)
	}
	policy := p.f.policy
	reply, v := p.take(fr, l, s, now)
	p.unlock()
	p.speak()
	if v == frame.Reply {
		reply.write(fr, &s.key, t.mark(policy))
	}
	return v
}

// speak does what had to wait for the locks.
func (p *pairing) speak() {
	for i := range p.says {
		r := &p.says[i]
		p.t.put(r)
	}
	for _, policy := range p.full {
		p.t.evict(policy)
	}
	if p.tried != nil {
		p.tried()
	}
	if p.ended != nil {
		p.t.tellEnd(p.owner, p.ended)
	}
}

// say sends a segment of the table's own on a leg, and notes it there.
func (p *pairing) say(f *Flow, a answer, now instant) {
	p.says = append(p.says, f.word(a))
	s := segment{flags: a.flags(), seq: a.seq, ack: a.ack, window: a.window, ts: a.ts, tsVal: a.tsVal, tsEcr: a.tsEcr}
	if s.flags&rst != 0 {
		p.t.farewell.note(f, &s)
	}
	if s.flags&syn == 0 {
		f.sent(&s, now)
	}
}

// take decides on a segment.
func (p *pairing) take(fr *frame.Frame, l frame.Layout, s *segment, now instant) (a answer, v frame.Verdict) {
	f, m := p.f, p.m
	if f.over() && s.is(syn|ack|rst|fin, syn) && (f.state == Closed || p.t.mayReopen(f, s) && p.t.isnBeyond(f, now)) {
		// The peer is through and has forgotten the connection; its mate, which was
		// sent our FIN too, is not. The ports are the peer's (RFC 6191).
		p.resetBoth(now)
		p.again = true
		return a, frame.Pass
	}
	if f.state == SynSent || f.state == SynReceived {
		if a, v, done := p.handshake(fr, l, s, now); done {
			return a, v
		}
	}
	if p.repeatsAnswer(s) {
		if !p.forward(fr, l, s, now) {
			return a, frame.Drop
		}
		return a, frame.Forward
	}
	if s.flags&(rst|syn) != 0 {
		return p.interrupt(fr, l, s, now)
	}
	refused := p.t.guard(f, s, now)
	if refused == allowed && p.outside(s) {
		refused = answered // RFC 9293, 3.10.7.4, first check
	}
	if refused != allowed {
		if f.guarded < 255 {
			f.guarded++
		}
		return p.challenge(refused == answered, now)
	}
	if f.has(parted) {
		if f.stale(s) {
			return p.challenge(true, now)
		}
		p.reached(fr)
		return p.alone(s, now)
	}
	probed := f.repeats > 0 && !f.underWay()
	if probed && s.length() == 0 && s.seq == f.rcvNxt && s.ack == f.sndUna && f.scaled(s) == f.sndWnd {
		f.heard(now) // the answer to a keepalive probe of ours is ours
		f.stamped(s, now)
		p.reached(fr)
		f.repeats = 0
		p.rearm(f, now)
		return a, frame.Consume
	}
	if m.sndWnd == 0 && m.closedWnd != 0 && s.seq == f.expected(m)-1 && s.size == 0 {
		m.flags |= zeroWindow // a probe of a closed window: there is something to send
	}
	if f.has(turning) && p.asksAgain(s) && p.partTurning(now) {
		return p.alone(s, now)
	}
	was, mwas := f.state, m.state
	said, ok := p.translate(fr, l, s)
	if !ok {
		p.t.Count.Untranslated.Add(1)
		return a, frame.Drop
	}
	if f.stale(s) {
		return a, frame.Forward // the other peer acknowledges it again; nothing in it counts
	}
	if !f.underWay() {
		f.repeats = 0
	}
	f.received(s, now)
	p.reached(fr)
	p.passed(&said, now)
	p.advance(was, mwas, now)
	if f.has(parted) && s.length() == 0 {
		return a, frame.Consume // our FIN says as much, with an open window: behind it this would close it again
	}
	return a, frame.Forward
}

// reached notes by whom the peer is reached, its router may be another now: from a
// segment that counts and has come by the leg's card. Anybody can send one that
// is refused, and would have what is for the peer.
func (p *pairing) reached(fr *frame.Frame) {
	f := p.f
	if f.card == p.card && f.has(tagged) == fr.Tagged && (fr.VLAN^f.vlan)&vlanID == 0 {
		copy(f.mac[:], fr.Eth[6:12])
	}
}

// vlanID are the bits of a tag that name the VLAN (IEEE 802.1Q, 9.6).
const vlanID = 0xfff

// repeatsAnswer reports whether a backend repeats its SYN-ACK to a client who has
// not acknowledged it: that is for the client. An ACK of ours would end the
// backend's handshake before the client's.
func (p *pairing) repeatsAnswer(s *segment) bool {
	f := p.f
	return s.flags&(syn|ack|rst) == syn|ack && f.has(dialled) && p.m.state == SynReceived && s.seq == f.irs && s.ack == f.iss+1
}

// outside reports whether a segment lies where its peer could not have sent it, nor
// repeated it: beyond the window, or further back than the largest one reached. What
// was under way when we closed the window ourselves is welcome.
func (p *pairing) outside(s *segment) bool {
	const least = 1 << 16
	f, most := p.f, max(p.m.maxSndWnd, least)
	ahead := max(f.offered(), least)
	if f.has(shut) {
		ahead = most
	}
	return after(s.seq, f.rcvNxt+ahead) || before(s.seq, f.rcvNxt-most)
}

// stale reports whether all of a segment was acknowledged before, so that neither
// its ACK nor its FIN counts (RFC 9293, 3.10.7.4: "an unacceptable segment"). A
// keepalive probe, which lies one before what is next, is none.
func (f *Flow) stale(s *segment) bool {
	return before(s.end(), f.rcvNxt-1) || s.flags&fin != 0 && !f.has(peerFinSeen) && !after(s.end(), f.rcvNxt)
}

// expected is the number behind all that the peer of f has sent, as far as it was
// passed on.
func (f *Flow) expected(m *Flow) uint32 { return f.irs + (m.sndNxt - m.iss) }

// challenge drops a segment, and answers with where we are unless that was
// done too often (RFC 5961).
func (p *pairing) challenge(reply bool, now instant) (a answer, v frame.Verdict) {
	if !reply || !p.f.mayChallenge(now) {
		return a, frame.Drop
	}
	p.t.Count.Challenges.Add(1)
	return p.f.answer(now), frame.Reply
}

// interrupt handles RST and SYN of a synchronized connection (RFC 5961, 3 and 4):
// a RST ends it only if it is exact, seen from what we have acknowledged or from
// all that has passed here.
func (p *pairing) interrupt(fr *frame.Frame, l frame.Layout, s *segment, now instant) (a answer, v frame.Verdict) {
	f, m := p.f, p.m
	switch {
	case s.flags&syn != 0 && s.flags&rst == 0:
		p.t.Count.LateSYN.Add(1)
		return p.challenge(true, now)
	case f.over(): // it waits for its mate, which is not over
		p.t.Count.TimeWaitRST.Add(1) // RFC 1337, 3: fix F1
		return a, frame.Consume
	case s.seq == f.rcvNxt || !f.has(parted) && s.seq == f.expected(m):
	case after(s.seq, f.rcvNxt) && before(s.seq, f.rcvNxt+max(f.offered(), 1)):
		return p.challenge(true, now)
	default:
		return a, frame.Drop
	}
	f.flags |= rstSeen
	f.enter(Closed, now)
	if !m.over() {
		p.say(m, m.reset(now), now)
	}
	p.advance(Established, Established, now)
	return a, frame.Consume
}

// reset is an exact RST, as far as the peer has all that was sent.
func (f *Flow) reset(now instant) answer {
	if f.state == SynSent {
		return f.giveUp() // there is nothing to acknowledge
	}
	a := f.answer(now)
	a.rst, a.acked = true, true
	return a
}

// forward translates a segment for the other leg and notes it there.
func (p *pairing) forward(fr *frame.Frame, l frame.Layout, s *segment, now instant) bool {
	said, ok := p.translate(fr, l, s)
	if ok {
		p.passed(&said, now)
	}
	return ok
}

// translate makes the frame what the other peer gets, and tells what that says.
func (p *pairing) translate(fr *frame.Frame, l frame.Layout, s *segment) (said segment, ok bool) {
	f, m := p.f, p.m
	out, ok := p.t.out(m)
	if !ok {
		return said, false
	}
	tr := between(f, m)
	tr.shut = m.has(shut)
	if s.flags&syn != 0 {
		tr.mss = uint16(min(out.most, 0xffff))
		tr.ts = m.has(peerTS) || m.has(timestamps)
	}
	said = tr.segment(s)
	fr.To = out.to
	return said, tr.pass(fr, l, s, &said, &f.key, &m.key, &out.envelope)
}

// passed notes on the other leg what it was told.
func (p *pairing) passed(said *segment, now instant) {
	m := p.m
	idle, news := !m.underWay(), after(said.end(), m.sndNxt)
	m.sent(said, now)
	if said.size > 0 && news {
		p.client.flags &^= answeredLast
		if m == p.client {
			p.client.flags |= answeredLast
		}
	}
	if idle && m.underWay() {
		p.sooner(m, now)
	}
}

// outlet is what is needed to send on a leg.
type outlet struct {
	envelope
	to   frame.Outlet
	most int // bytes of the largest segment that the card sends
}

// out finds the way that a leg goes out. It is false if its card is not there.
func (t *Table) out(f *Flow) (o outlet, ok bool) {
	cards := t.cards.Load()
	if cards == nil || int(f.card) >= len(*cards) {
		return o, false
	}
	c := (*cards)[f.card]
	to, own := c.outlet.Load(), c.mac.Load()
	if to == nil || own == nil {
		return o, false
	}
	headers := 40 + tcpHeader
	if f.key.is4() {
		headers = 20 + tcpHeader
	}
	o.own, o.peer, o.tagged, o.vlan, o.mark = *own, f.mac, f.has(tagged), f.vlan, t.mark(f.policy)
	o.to = *to
	o.most = int(o.to.MTU()) - headers
	o.mss = o.most
	if f.sndMSS > 0 {
		o.mss = min(o.mss, int(f.sndMSS))
	}
	return o, true
}

// advance follows what a segment has changed. The states before it tell what.
func (p *pairing) advance(was, mwas State, now instant) {
	f, m := p.f, p.m
	if (f.has(shut) || f.has(turning)) && p.quiet() {
		p.turned(now)
	}
	if f.state == was && m.state == mwas && !f.has(zeroWindow) && !m.has(zeroWindow) {
		return
	}
	if f.over() && m.over() {
		p.conclude(now)
		return
	}
	p.settle(f, now)
	p.settle(m, now)
}

// quiet reports whether nothing is under way on either leg.
func (p *pairing) quiet() bool { return !p.f.underWay() && !p.m.underWay() }

// settle counts a leg by its state and sets its timer.
func (p *pairing) settle(f *Flow, now instant) {
	sh, slot := p.place(f)
	if !f.over() {
		p.t.recount(sh, f, slot)
	}
	p.t.rearm(sh, f, slot, now)
}

func (p *pairing) rearm(f *Flow, now instant) {
	sh, slot := p.place(f)
	p.t.rearm(sh, f, slot, now)
}

// sooner sets a leg's timer anew if it fires earlier than it would.
func (p *pairing) sooner(f *Flow, now instant) {
	due, _, ok := p.t.carriedDeadline(f)
	if !ok || f.timed && int32(due-f.due) >= 0 {
		return
	}
	sh, slot := p.place(f)
	sh.time(f, slot, due, now.ms)
	p.t.wind()
}

// conclude ends a carried connection: what is left of a leg is in TIME-WAIT, or
// nothing. What is to be told is told once the locks are free.
func (p *pairing) conclude(now instant) {
	t := p.t
	p.ended, p.owner = t.describe(p.client, p.other, now), p.client.owner()
	t.Count.CarriedEnds.Add(1)
	t.carriedNow.Add(-1)
	t.ends.take(&p.client.key)
	for _, f := range [...]*Flow{p.f, p.m} {
		sh, slot := p.place(f)
		f.flags &^= carried | direct | shut | turning | parted | answeredLast
		f.flags |= released
		f.newer, f.older = 0, 0
		f.repeats, f.peerWindow = 0, 0
		f.wl1, f.wl2 = f.rcvNxt-1, f.sndUna
		if f.state == TimeWait && t.policy(f.policy).TimeWait.Duration >= 0 {
			f.progress = now.ms
			if full := t.recount(sh, f, slot); full >= 0 {
				p.full = append(p.full, full)
			}
			t.rearm(sh, f, slot, now)
			continue
		}
		t.forget(sh, f, slot)
	}
}

// tellEnd tells the owner.
func (t *Table) tellEnd(owner uint16, c *tcpinfo.Carried) {
	if o := t.ownerOf(owner); o != nil {
		o.to.Ended(c)
	}
}
