package flow

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// SendFunc puts a frame on the wire; it keeps neither slice.
type SendFunc func(meta frame.Header, eth, net []byte)

// Card is the table's filter for the frames of one network card.
type Card struct {
	t       *Table
	n       uint8
	send    atomic.Pointer[SendFunc]
	outlet  atomic.Pointer[frame.Outlet]       // where frames are forwarded to
	deliver atomic.Pointer[func(*frame.Frame)] // gives the stack a frame that was held back
	mac     atomic.Pointer[[6]byte]            // the card's own address, from the frames to it
}

var _ frame.Filter = (*Card)(nil)

// Card makes the filter of one more card.
func (t *Table) Card() *Card {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*Card
	if old := t.cards.Load(); old != nil {
		all = append(all, *old...)
	}
	c := &Card{t: t, n: uint8(len(all))}
	all = append(all, c)
	t.cards.Store(&all)
	return c
}

// Start gives the card a way to send what the table has to say by itself:
// probes. nil takes it away, before the card closes.
func (c *Card) Start(send SendFunc) {
	if send == nil {
		c.send.Store(nil)
		return
	}
	c.send.Store(&send)
}

// Bind tells how frames are forwarded to this card, and how one that was held
// back gets to the stack.
func (c *Card) Bind(to frame.Outlet, deliver func(*frame.Frame)) {
	c.outlet.Store(&to)
	c.deliver.Store(&deliver)
}

// Own tells the card's own address, for what it sends before any frame has told.
func (c *Card) Own(mac [6]byte) { c.own(mac[:]) }

// Inbound implements frame.Filter.
func (c *Card) Inbound(f *frame.Frame) frame.Verdict {
	l, ok := frame.Parse(f.Net)
	if !ok || l.Fragment {
		return frame.Pass
	}
	switch l.Protocol {
	case frame.ProtoTCP:
		return c.inboundTCP(f, l)
	case protoICMP, protoICMPv6:
		return c.t.inboundICMP(f.Net, l)
	}
	return frame.Pass
}

func (c *Card) inboundTCP(f *frame.Frame, l frame.Layout) frame.Verdict {
	var s segment
	if !s.readInbound(f.Net, l) {
		return frame.Pass // gVisor counts it
	}
	if f.Eth[0]&1 != 0 {
		c.t.Count.Group.Add(1) // TCP has two ends: RFC 1122, 3.3.6
		return frame.Drop
	}
	return c.inbound(f, l, &s)
}

func (c *Card) inbound(f *frame.Frame, l frame.Layout, s *segment) frame.Verdict {
	t := c.t
	sh, h := t.shard(&s.key)
	now := t.now()
	fl, slot, v, done := c.onLeg(sh, h, f, l, s, now)
	if done {
		if t.probes.n.Load() > 0 && (v == frame.Forward || v == frame.Consume) {
			t.probes.answered(s, now)
		}
		return v
	}
	if fl == nil && !s.is(syn|ack|rst|fin, syn) {
		sh.mu.Unlock()
		if t.sweep.n.Load() > 0 {
			return t.hangUp(f, l, s, now)
		}
		return frame.Pass
	}
	if !valid(f, l) {
		sh.mu.Unlock()
		return frame.Pass // the card's own check counts it
	}
	if fl == nil && !t.mayCall(&s.key) {
		sh.mu.Unlock()
		t.Count.BadSource.Add(1) // RFC 9293, 3.9.2.3: silently discarded
		return frame.Drop
	}
	if by, ok := t.carriageOf(s.key.localAddr()); ok && s.is(syn|ack|rst|fin, syn) && t.mayDirect(fl, s) {
		sh.mu.Unlock()
		if v, done := t.newcomer(c, f, s, by, now); done {
			return v
		}
		sh.mu.Lock()
		fl, slot = sh.find(&s.key, h)
	}
	if fl == nil {
		t.greet(c, sh, f, s, h, now)
		sh.mu.Unlock()
		if t.sweep.n.Load() > 0 {
			t.sweep.hear(s, now)
		}
		return frame.Pass
	}
	if fl.has(tagged) == f.Tagged && !s.is(rst, rst) {
		copy(fl.mac[:], f.Eth[6:12])
	}
	if fl.has(holding) {
		t.holds.keep(t, fl, f, l, s)
	}
	policy := fl.policy
	answer, verdict, full := t.judge(c, sh, fl, slot, f, s, now)
	sh.mu.Unlock()
	if full >= 0 {
		t.evict(full)
	}
	if t.probes.n.Load() > 0 && verdict == frame.Pass {
		t.probes.answered(s, now)
	}
	if verdict == frame.Reply {
		answer.write(f, &s.key, t.mark(policy))
	}
	return verdict
}

// newcomer decides on a SYN to an address whose connections are carried, with no
// lock held. done is false if it goes the ordinary way.
func (t *Table) newcomer(c *Card, f *frame.Frame, s *segment, by carriage, now instant) (v frame.Verdict, done bool) {
	how := t.full()
	switch {
	case how != "" && t.turnAway(f, s, how):
		return frame.Reply, true
	case how == "relay" || by.by != tcpinfo.Direct:
		return v, false
	}
	return t.direct(c, f, s, by, now)
}

// valid reports whether the segment's checksum is right, and notes it so that
// nobody has to look again.
func valid(f *frame.Frame, l frame.Layout) bool {
	if f.Meta.Flags != 0 {
		return true
	}
	if !l.TransportValid(f.Net) {
		return false
	}
	f.Meta.Flags = frame.DataValid
	return true
}

// greet makes the flow of a new connection, if somebody listens and there are
// not too many handshakes under way: under a flood of SYNs the table must not
// grow with them.
func (t *Table) greet(c *Card, sh *shard, f *frame.Frame, s *segment, h uint32, now instant) {
	policy, ok := t.listener(s.key.localAddr())
	if !ok || t.halfOpen.Load() >= halfOpenMost {
		return
	}
	fl, slot := t.create(sh, &s.key, h, now)
	fl.policy, fl.card = policy, c.n
	if by, ok := t.carriageOf(s.key.localAddr()); ok && by.by != tcpinfo.Relay {
		fl.flags |= holding
	}
	fl.reach(f)
	fl.receivedSYN(s, now)
	t.recount(sh, fl, slot)
	t.rearm(sh, fl, slot, now)
	c.own(f.Eth[:6])
}

// own notes the card's own address.
func (c *Card) own(mac []byte) {
	if known := c.mac.Load(); known == nil || *known != [6]byte(mac) {
		c.mac.Store((*[6]byte)(append([]byte(nil), mac...)))
	}
}

// reach notes how frames come from the peer and so get there.
func (f *Flow) reach(fr *frame.Frame) {
	copy(f.mac[:], fr.Eth[6:12])
	f.flags &^= tagged
	f.vlan = 0
	if fr.Tagged {
		f.flags |= tagged
		f.vlan = fr.VLAN
	}
}

// leave notes how frames get to the peer.
func (f *Flow) leave(c *Card, fr *frame.Frame) {
	f.card = c.n
	copy(f.mac[:], fr.Eth[:6])
	c.own(fr.Eth[6:12])
	if fr.Tagged {
		f.flags |= tagged
		f.vlan = fr.VLAN
	}
}

// judge decides on a segment for a known flow.
func (t *Table) judge(c *Card, sh *shard, f *Flow, slot uint32, fr *frame.Frame, s *segment, now instant) (a answer, v frame.Verdict, full int) {
	full = -1
	switch was := f.state; was {
	case Closed:
		if s.is(syn|ack|rst|fin, syn) {
			t.again(c, sh, f, slot, fr, s, now)
		}
		return a, frame.Pass, full
	case TimeWait:
		a, v = t.inTimeWait(c, sh, f, slot, fr, s, now)
		return a, v, full
	case SynSent, SynReceived:
		if f.crosses(s) {
			straighten(fr, s)
		}
		switch early, ruling := t.early(f, s, now); ruling {
		case ignored:
			return a, frame.Drop, full
		case answered:
			return early, frame.Reply, full
		}
		if was == SynReceived && s.is(syn|ack|rst|fin, syn) && f.has(synsSeen) {
			if !f.mayChallenge(now) {
				return a, frame.Drop, full
			}
			f.stamped(s, now)
			return f.synACK(now), frame.Reply, full
		}
		if was == SynReceived && s.flags&rst != 0 && f.id == 0 {
			t.forget(sh, f, slot) // RFC 9293, 3.10.7.4: back to LISTEN
			return a, frame.Pass, full
		}
		f.receivedEarly(s, now)
		if was == SynSent && s.is(syn|ack|rst, syn|ack) && t.carries() {
			t.ways.learn(f, now)
		}
		if f.state == was {
			return a, frame.Pass, full
		}
	default:
		if f.has(blind) {
			return a, frame.Pass, full
		}
		refused := t.guard(f, s, now)
		if refused != allowed {
			if f.guarded < 255 {
				f.guarded++
			}
			if refused == answered && f.mayChallenge(now) {
				t.Count.Challenges.Add(1)
				return f.answer(now), frame.Reply, full
			}
			return a, frame.Drop, full
		}
		window := s.window
		if f.outdated(s) {
			if s.length() == 0 && before(s.ack, f.sndUna) {
				return a, frame.Consume, full // nothing in it is news
			}
			window = f.peerWindow
		}
		if f.overEdge(s) {
			rewrite(fr, func(tcp []byte) { binary.BigEndian.PutUint32(tcp[4:], f.rcvNxt) })
		}
		f.receivedLate(s, now)
		if f.has(crumb) {
			window = 0
		}
		if window != s.window && s.flags&rst == 0 {
			rewrite(fr, func(tcp []byte) { binary.BigEndian.PutUint16(tcp[14:], window) })
		}
		if f.has(rstSeen) && (f.id == 0 || f.has(released)) {
			t.forget(sh, f, slot) // nobody else will say that it is over
			return a, frame.Pass, full
		}
		if f.state == was && !f.has(zeroWindow) {
			return a, frame.Pass, full
		}
	}
	full = t.moved(sh, f, slot, now)
	return a, frame.Pass, full
}

// moved follows a change of state: counts, timer, or the end of the flow.
func (t *Table) moved(sh *shard, f *Flow, slot uint32, now instant) (full int) {
	if f.state == TimeWait && t.policy(f.policy).TimeWait.Duration < 0 {
		f.state = Closed // its policy does without; entered tells that it was there
	}
	full = t.recount(sh, f, slot)
	if f.state == Closed && (f.id == 0 || f.has(released)) {
		t.forget(sh, f, slot)
		return full
	}
	t.rearm(sh, f, slot, now)
	return full
}

// again makes a new flow of one that is over, for the same ports.
func (t *Table) again(c *Card, sh *shard, f *Flow, slot uint32, fr *frame.Frame, s *segment, now instant) {
	t.forget(sh, f, slot)
	t.greet(c, sh, fr, s, uint32(s.key.hash(t.seed)), now)
}

// receivedEarly notes a segment during the handshake, on which gVisor decides.
func (f *Flow) receivedEarly(s *segment, now instant) {
	switch {
	case f.state == SynSent && s.flags&(syn|rst) == syn:
		f.receivedSYN(s, now)
	case f.state == SynSent && s.flags&(rst|ack) != rst|ack:
		// RFC 9293, 3.10.7.3: it ends nothing, and opens nothing.
	case s.flags&rst != 0:
		f.flags |= rstSeen
	case s.flags&syn == 0:
		f.received(s, now)
	}
}

// receivedLate notes a segment that passed the guard, unless gVisor will
// refuse it for its sequence number.
func (f *Flow) receivedLate(s *segment, now instant) {
	if !f.acceptable(s) {
		return
	}
	if s.flags&rst != 0 {
		f.flags |= rstSeen
		return
	}
	if s.flags&syn == 0 {
		f.received(s, now)
	}
}

// acceptable is the test of RFC 9293, 3.4, with a window no smaller than what
// may be on its way to gVisor: rcvNxt is what was acknowledged, not all that
// has come.
func (f *Flow) acceptable(s *segment) bool {
	return !after(s.seq, f.rcvNxt+max(f.offered(), 1<<16)) && !before(s.end(), f.rcvNxt-1)
}

// Outbound implements frame.Filter.
func (c *Card) Outbound(fr *frame.Frame) frame.Verdict {
	var s segment
	if !s.readOutbound(fr.Net) {
		return frame.Pass
	}
	t := c.t
	sh, h := t.shard(&s.key)
	now := t.now()
	sh.mu.Lock()
	f, slot := sh.find(&s.key, h)
	if f == nil {
		if s.is(syn|ack|rst|fin, syn) {
			f, slot = t.create(sh, &s.key, h, now)
			if t.carries() {
				f.flags |= holding // until it is known what becomes of it
			}
		} else {
			sh.mu.Unlock()
			return frame.Pass
		}
	}
	full, verdict := t.observe(c, sh, f, slot, fr, &s, now)
	sh.mu.Unlock()
	if full >= 0 {
		t.evict(full)
	}
	return verdict
}

// observe notes a segment of gVisor's.
func (t *Table) observe(c *Card, sh *shard, f *Flow, slot uint32, fr *frame.Frame, s *segment, now instant) (full int, v frame.Verdict) {
	full = -1
	if f.has(carried) {
		return full, frame.Consume // what is left of the stack's connection has nothing to say
	}
	opening := s.is(syn|ack, syn)
	switch {
	case f.state == TimeWait && opening:
		if !t.mayRedial(f, now) {
			return full, frame.Consume // Dial asks MayDial, and takes another port
		}
		t.Count.Reused.Add(1)
		fallthrough
	case f.state == Closed && opening && f.entered[Closed] != 0:
		t.forget(sh, f, slot)
		f, slot = t.create(sh, &s.key, uint32(s.key.hash(t.seed)), now)
	case f.state == TimeWait:
		if s.flags&rst != 0 {
			return full, frame.Consume // RFC 1337: nothing ends it early
		}
		return full, frame.Pass
	}
	if opening {
		f.flags |= dialled
	}
	if opening || f.has(blind) {
		f.leave(c, fr)
	}
	if most := t.policy(f.policy).Retransmit.SynRetries; most > 0 && s.flags&syn != 0 && s.seq == f.iss &&
		!f.state.synchronized() && int(f.synRetrans) >= most {
		return full, frame.Drop // repeated often enough; its timer ends it
	}
	if s.flags&rst != 0 && f.pastWindow(s.seq) {
		s.seq = f.sndUna + f.sndWnd
		rewrite(fr, func(tcp []byte) { binary.BigEndian.PutUint32(tcp[4:], s.seq) })
	}
	t.farewell.note(f, s)
	was, zero := f.state, f.has(zeroWindow)
	f.sent(s, now)
	if f.state != was || f.has(zeroWindow) != zero {
		full = t.moved(sh, f, slot, now)
	} else if s.length() > 0 {
		t.watch(sh, f, slot, now)
	}
	return full, frame.Pass
}
