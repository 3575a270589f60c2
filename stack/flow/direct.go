package flow

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// A direct connection is carried from the client's SYN on:
//
//	client's SYN      -> the owner chooses a backend -> our SYN, with the client's options
//	backend's SYN-ACK -> translated for the client; from here on as any carried one
//	backend's RST, or silence -> the next backend, while the client waits (attempts.go)
//
// The initial sequence numbers are ours on both legs (RFC 6528), and so is where the
// clock of the timestamps begins that a peer sees, because a peer knows us by our
// address and port: a port that comes round again must go on above where it was.

// directHalfOpenMost bounds direct handshakes under way. Beyond it SYNs go to the
// stack, whose SYN cookies need no memory, and no flood reaches the backends.
const directHalfOpenMost = 4096

// Ports of ours toward backends. Those below are the stack's: each has its own
// numbers, which must not meet on one port.
const (
	FirstDirectPort = 32768
	directPorts     = 65536 - FirstDirectPort
	portTries       = 64
)

// mayDirect reports whether a SYN that finds this flow may begin a direct
// connection.
func (t *Table) mayDirect(f *Flow, s *segment) bool {
	return f == nil || f.state == Closed || f.state == TimeWait && t.mayReopen(f, s)
}

// direct begins a direct connection for a SYN. done is false if the SYN has to go
// the ordinary way. No lock is held.
func (t *Table) direct(c *Card, fr *frame.Frame, s *segment, by carriage, now instant) (v frame.Verdict, done bool) {
	o := t.ownerOf(by.owner)
	policy, listens := t.listener(s.key.localAddr())
	if o == nil || !listens || !t.mayCall(&s.key) || t.halfOpen.Load() >= directHalfOpenMost {
		return v, false
	}
	client := s.key.remoteAddr()
	backend, ok := o.to.Choose(client, netip.AddrPort{})
	if !ok {
		return v, false
	}
	w := t.ways.get(backend, now)
	if w == nil {
		o.to.Spared(backend)
		return v, false
	}
	bk, ok := t.source(w, backend, now)
	if !ok {
		o.to.Spared(backend)
		return v, false
	}
	p := t.lockBoth(&s.key, &bk)
	if p.m != nil || !t.mayDirect(p.f, s) {
		p.unlock()
		o.to.Spared(backend)
		return v, false
	}
	iss := t.isn(&s.key, now)
	if p.f != nil {
		if p.f.state == TimeWait {
			t.Count.Reused.Add(1)
		}
		if !after(iss, p.f.sndNxt) {
			iss = p.f.sndNxt + 1<<16 // it has sent faster than the clock of ISNs runs (RFC 9293, 3.6.1)
		}
		t.forget(p.fsh, p.f, p.fslot)
	}
	p.f, p.fslot = t.create(p.fsh, &s.key, uint32(s.key.hash(t.seed)), now)
	p.f.flags |= carried | direct
	p.f.id, p.f.policy, p.f.card = t.newID(), policy, c.n
	p.f.own(by.owner, 0)
	p.f.reach(fr)
	c.own(fr.Eth[:6])
	p.f.receivedSYN(s, now)
	p.f.iss = iss
	p.f.sndUna, p.f.sndNxt = p.f.iss, p.f.iss
	p.client, p.fr = p.f, fr
	p.dial(&bk, w, now)
	t.Count.Directed.Add(1)
	t.carriedNow.Add(1)
	p.unlock()
	p.speak()
	if p.sent {
		return frame.Forward, true
	}
	return frame.Consume, true
}

// dial makes the backend's leg and sends its SYN.
func (p *pairing) dial(k *key, w *way, now instant) {
	t, f := p.t, p.client
	p.m, p.mslot = t.create(p.msh, k, uint32(k.hash(t.seed)), now)
	if p.msh == p.fsh {
		p.f = p.fsh.at(p.fslot) // the shard may have grown
		f, p.client = p.f, p.f
	}
	m := p.m
	p.other = m
	m.flags |= carried | direct | dialled
	m.id, m.policy, m.card, m.mac = f.id, f.policy, w.card, w.mac
	if w.tagged {
		m.flags |= tagged
		m.vlan = w.vlan
	}
	m.own(f.owner(), f.retries())
	p.join()
	m.iss = t.isn(k, now)
	syn := segment{flags: syn, seq: m.iss, window: f.offeredFirst(), mss: f.sndMSS, scale: f.sndScale, sack: f.has(peerSACK)}
	if out, ok := t.out(m); ok {
		syn.mss = uint16(min(int(f.sndMSS), out.most))
	}
	if f.has(peerTS) {
		syn.ts, syn.tsVal = true, t.stamp(k, now)
		f.setDelta(syn.tsVal - f.tsRecent)
	}
	m.sent(&syn, now)
	p.sayOpening(&syn)
	p.settle(f, now)
	p.settle(m, now)
}

// offeredFirst is the window of the peer's SYN, which is never scaled.
func (f *Flow) offeredFirst() uint16 { return uint16(min(f.sndWnd, 0xffff)) }

// sayOpening sends the SYN of the backend's leg: in the place of the frame that is
// handled, if there is one.
func (p *pairing) sayOpening(s *segment) {
	m := p.other
	if fr := p.fr; fr != nil && len(fr.Room) >= frame.RoomSize {
		if out, ok := p.t.out(m); ok {
			a := answer{syn: synOptions(s), seq: s.seq, window: s.window}
			at := out.put(fr.Room, &m.key, a.size())
			a.put(fr.Room[at:], &m.key)
			fr.Head, fr.Body, fr.To, fr.Meta = fr.Room[:at+a.size()], nil, out.to, frame.Header{}
			p.sent = true
			return
		}
	}
	p.says = append(p.says, m.word(answer{syn: synOptions(s), seq: s.seq, window: s.window}))
}

// synOptions writes the options that a SYN or a SYN-ACK offers.
func synOptions(s *segment) []byte {
	o := make([]byte, 0, optionsMost)
	o = binary.BigEndian.AppendUint16(append(o, optMSS, 4), s.mss)
	switch {
	case s.ts && s.sack:
		o = append(o, optSACKOK, 2)
	case s.ts:
		o = append(o, optNOP, optNOP)
	case s.sack:
		o = append(o, optNOP, optNOP, optSACKOK, 2)
	}
	if s.ts {
		o = binary.BigEndian.AppendUint32(append(o, optTimestamps, 10), s.tsVal)
		o = binary.BigEndian.AppendUint32(o, s.tsEcr) // 0 in a SYN
	}
	if s.scale >= 0 {
		o = append(o, optNOP, optScale, 3, byte(s.scale))
	}
	return o
}

// isn chooses an initial sequence number as RFC 6528 says: a clock that runs
// faster than a connection sends, and a secret for each pair of addresses and ports.
func (t *Table) isn(k *key, now instant) uint32 {
	return uint32(k.hash(t.secret)>>32) + uint32((now.ns+t.epoch)>>6)
}

// stamp is our clock of timestamps as a peer sees it: milliseconds, from a
// secret beginning for each pair of addresses and ports (RFC 7323, 7.1).
func (t *Table) stamp(k *key, now instant) uint32 {
	return uint32(k.hash(t.secret^0x5bd1e995)>>32) + uint32((now.ns+t.epoch)/1e6)
}

// epochOf makes the clocks of ISNs and timestamps go on over a restart.
func epochOf(wall time.Time) int64 { return wall.UnixNano() & (1<<50 - 1) }

// source chooses our end toward a backend.
func (t *Table) source(w *way, backend netip.AddrPort, now instant) (k key, ok bool) {
	for range portTries {
		port := FirstDirectPort + w.next.Add(1)%directPorts
		k = keyOf(netip.AddrPortFrom(w.own, uint16(port)), backend)
		sh, h := t.shard(&k)
		sh.mu.Lock()
		f, slot := sh.find(&k, h)
		if f != nil && f.state == TimeWait && t.mayRedial(f, now) {
			t.Count.Reused.Add(1)
			t.forget(sh, f, slot)
			f = nil
		}
		sh.mu.Unlock()
		if f == nil {
			return k, true
		}
	}
	return k, false
}

// handshake handles a segment of a direct connection whose handshake is under
// way. done is false if it is a segment as any other.
func (p *pairing) handshake(fr *frame.Frame, l frame.Layout, s *segment, now instant) (a answer, v frame.Verdict, done bool) {
	if p.f.has(dialled) {
		return a, p.answered(fr, l, s, now), true
	}
	f, m := p.f, p.m
	switch a, early := p.t.early(f, s, now); {
	case early == ignored:
		return a, frame.Drop, true
	case early == answered:
		return a, frame.Reply, true
	case s.flags&rst != 0:
		f.flags |= rstSeen
		f.enter(Closed, now)
		p.say(m, m.reset(now), now)
		m.enter(Closed, now)
		p.conclude(now)
		return a, frame.Consume, true
	case s.is(syn|ack, syn):
		if s.ts && after(s.tsVal, f.tsRecent) {
			f.tsRecent = s.tsVal
		}
		p.fr = fr
		p.sayAgain()
		if p.sent {
			return a, frame.Forward, true
		}
		return a, frame.Consume, true
	case s.is(syn|ack, syn|ack), s.flags&ack == 0:
		return a, frame.Drop, true
	case !f.acknowledges(s):
		// RFC 9293, 3.10.7.4, fifth check: "If the segment acknowledgment is not
		// acceptable, form a reset segment, <SEQ=SEG.ACK><CTL=RST>".
		if !f.mayChallenge(now) {
			return a, frame.Drop, true
		}
		p.t.Count.BadACK.Add(1)
		return answer{rst: true, seq: s.ack}, frame.Reply, true
	case !m.state.synchronized():
		return a, frame.Drop, true // it can't know our number yet
	}
	return a, v, false
}

// sayAgain repeats our SYN, because the client has repeated its own: as often as the
// policy allows until it is answered.
func (p *pairing) sayAgain() {
	f, m := p.client, p.other
	if most := p.t.policy(m.policy).Retransmit.SynRetries; most > 0 && m.state == SynSent && int(m.synRetrans) >= most {
		return
	}
	s := segment{flags: syn, seq: m.iss, window: f.offeredFirst(), mss: m.rcvMSS, scale: m.rcvScale, sack: f.has(peerSACK)}
	if m.state.synchronized() {
		s.scale = f.sndScale
	}
	if f.has(peerTS) {
		s.ts, s.tsVal = true, f.tsRecent+f.tsDelta() // of the client's clock, as all that follow
	}
	if m.synRetrans < 255 {
		m.synRetrans++
	}
	p.sayOpening(&s)
}

// answered handles what a backend says to our SYN.
func (p *pairing) answered(fr *frame.Frame, l frame.Layout, s *segment, now instant) frame.Verdict {
	f, m := p.f, p.m // the backend's leg and the client's
	switch {
	case s.flags&ack == 0:
		return frame.Drop // a SYN alone would be a connection to us: the listener's
	case s.ack != f.iss+1:
		// Somebody there remembers an old connection (RFC 9293, 3.10.7.3): our RST
		// ends that, and the SYN comes again.
		if s.flags&rst == 0 && f.mayChallenge(now) {
			p.t.Count.BadACK.Add(1)
			p.says = append(p.says, f.word(answer{rst: true, seq: s.ack}))
			p.sayAgain()
		}
		return frame.Consume
	case s.flags&rst != 0:
		p.failed(tcpinfo.Refused, now)
		return frame.Consume
	case s.flags&syn == 0:
		return frame.Drop
	}
	f.receivedSYN(s, now)
	f.heard(now)
	p.reached(fr)
	if f.has(peerTS) {
		f.setDelta(p.t.stamp(&m.key, now) - s.tsVal)
	}
	if !p.forward(fr, l, s, now) {
		return frame.Drop
	}
	p.t.ways.learn(f, now)
	if o := p.t.ownerOf(f.owner()); o != nil {
		backend := f.key.remoteAddr()
		p.tried = func() { o.to.Tried(backend, nil) }
	}
	p.settle(f, now)
	p.settle(m, now)
	return frame.Forward
}
