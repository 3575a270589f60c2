package flow

import (
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// lockRef finds a carried connection again and locks both legs.
func (t *Table) lockRef(ref tcpinfo.CarriedRef) (p pairing, ok bool) {
	if ref.Shard >= shards {
		return p, false
	}
	sh := &t.shards[ref.Shard]
	for {
		sh.mu.Lock()
		f := sh.leg(ref.Slot)
		if !f.paired() || f.id != ref.ID || !f.isClientLeg() {
			sh.mu.Unlock()
			return p, false
		}
		if p, ok = t.lockMate(sh, f, ref.Slot); ok {
			return p, true
		}
	}
}

// leg is the flow in a slot, or nil.
func (s *shard) leg(slot uint32) *Flow {
	at, place := slot/chunkSize, slot%chunkSize
	if int(at) >= len(s.chunks) || s.chunks[at] == nil || s.chunks[at].used&(1<<place) == 0 {
		return nil
	}
	return &s.chunks[at].flows[place]
}

// eachCarried calls do for every carried connection of an owner, with both its
// shards locked. Others get the thread in between.
func (t *Table) eachCarried(owner uint16, do func(p *pairing, ref tcpinfo.CarriedRef, now instant)) {
	var refs []tcpinfo.CarriedRef
	var others yielder
	for i := range t.shards {
		sh := &t.shards[i]
		refs = refs[:0]
		sh.mu.Lock()
		for at, c := range sh.chunks {
			if c == nil {
				continue
			}
			for place := range c.flows {
				if f := &c.flows[place]; c.used&(1<<place) != 0 && f.isClientLeg() && f.owner() == owner {
					refs = append(refs, tcpinfo.CarriedRef{ID: f.id, Shard: uint32(i), Slot: uint32(at*chunkSize + place)})
				}
			}
		}
		sh.mu.Unlock()
		for _, ref := range refs {
			if p, ok := t.lockRef(ref); ok {
				do(&p, ref, t.now())
				p.unlock()
			}
		}
		others.pause()
	}
}

// Views calls f for every carried connection of an owner, with locks held.
func (t *Table) Views(owner string, f func(*tcpinfo.CarriedView)) {
	n, ok := t.ownerNamed(owner)
	if !ok {
		return
	}
	var v tcpinfo.CarriedView
	t.eachCarried(n, func(p *pairing, ref tcpinfo.CarriedRef, now instant) {
		v = p.view(ref, now)
		f(&v)
	})
}

func (p *pairing) view(ref tcpinfo.CarriedRef, now instant) tcpinfo.CarriedView {
	c, b := p.client, p.other
	moved := min(now.ms-c.progress, now.ms-b.progress)
	both := c.has(peerFinSeen) && b.has(peerFinSeen)
	return tcpinfo.CarriedView{
		Ref: ref, Carrier: carrierOf(c), Finished: both && !c.has(parted), Client: c.key.remoteAddr(), Backend: b.key.remoteAddr(), Connecting: !b.connected(),
		Moved: time.Duration(moved) * time.Millisecond, Quiet: p.quiet(),
		HalfClosed: c.has(peerFinSeen) != b.has(peerFinSeen), Answered: c.has(answeredLast), Parted: c.has(parted),
	}
}

// ListCarried calls f for every carried connection of an owner, with all that is
// known of it and no lock held.
func (t *Table) ListCarried(owner string, f func(*tcpinfo.Carried)) {
	n, ok := t.ownerNamed(owner)
	if !ok {
		return
	}
	var all []*tcpinfo.Carried
	t.eachCarried(n, func(p *pairing, ref tcpinfo.CarriedRef, now instant) {
		c := t.describe(p.client, p.other, now)
		c.Ref, c.View = ref, p.view(ref, now)
		all = append(all, c)
	})
	for _, c := range all {
		f(c)
	}
}

// FindCarried finds one by its ID.
func (t *Table) FindCarried(owner string, id uint64) (ref tcpinfo.CarriedRef, ok bool) {
	t.Views(owner, func(v *tcpinfo.CarriedView) {
		if v.Ref.ID == id {
			ref, ok = v.Ref, true
		}
	})
	return ref, ok
}

// ProbeLeg asks one side of a carried connection with a keepalive segment.
func (t *Table) ProbeLeg(ref tcpinfo.CarriedRef, leg tcpinfo.LegName, done func(tcpinfo.Probe)) {
	p, ok := t.lockRef(ref)
	if !ok {
		done(tcpinfo.Probe{Alive: tcpinfo.NotProbed})
		return
	}
	f := p.client
	if leg == tcpinfo.BackendLeg {
		f = p.other
	}
	local, remote := f.key.localAddr(), f.key.remoteAddr()
	p.unlock()
	t.Probe(local, remote, ref.ID, done)
}

// describe tells all that is known of a carried connection; b is nil if there is
// no backend. Its shards are locked.
func (t *Table) describe(c, b *Flow, now instant) *tcpinfo.Carried {
	d := &tcpinfo.Carried{
		Ref: tcpinfo.CarriedRef{ID: c.id}, Carrier: carrierOf(c), Policy: t.policy(c.policy).Name,
		Opened: t.wall.Add(time.Duration(c.began)), Age: time.Duration(now.ns - c.began), Retries: int(c.retries()),
		Client: t.leg(c, now),
	}
	d.View.Carrier, d.View.Client, d.View.Connecting = d.Carrier, d.Client.Remote, b == nil || !b.connected()
	if b != nil {
		d.Backend = t.leg(b, now)
		d.View.Backend = d.Backend.Remote
		if at := b.entered[Established]; at != 0 {
			d.Connect = time.Duration(b.began-c.began) + time.Duration(at-1)*time.Millisecond
		}
	}
	firsts(d, c, b)
	return d
}

func carrierOf(f *Flow) tcpinfo.Carrier {
	if f.has(direct) {
		return tcpinfo.Direct
	}
	return tcpinfo.Splice
}

// connected reports whether a leg was established once.
func (f *Flow) connected() bool { return f.entered[Established] != 0 }

// leg tells of one side.
func (t *Table) leg(f *Flow, now instant) tcpinfo.Leg {
	l := tcpinfo.Leg{
		Local: f.key.localAddr(), Remote: f.key.remoteAddr(), Life: t.life(f, now),
		Sent: f.delivered(), EOF: f.has(peerFinSeen), FIN: f.has(finSent), Reset: f.has(rstSent), Died: f.has(rstSeen),
	}
	if f.endedBy > 0 {
		l.Rule = limitRules[f.endedBy-1]
		l.Died = l.Died || peersFault(l.Rule) && !f.waits() // else a backend has not answered
	}
	l.Info = tcpinfo.Info{
		State: f.state.String(), SndMSS: uint32(f.sndMSS), SACK: f.has(sackOK), Timestamps: f.has(timestamps),
		Unacked: f.unacked(), SndWnd: f.sndWnd, RcvWnd: f.offered(), CaState: "open",
	}
	if f.underWay() {
		l.Info.Backoff = int(f.repeats)
	}
	if f.has(carried) {
		if due, rule, ok := t.carriedDeadline(f); ok && rule != "" {
			l.Info.Timers = append(l.Info.Timers, tcpinfo.Timer{Name: rule, Left: left(due, now), Try: int(f.repeats)})
		}
	}
	return l
}

// peersFault reports whether a rule gives a peer up, not the connection.
func peersFault(r tcpinfo.Rule) bool {
	switch r {
	case tcpinfo.Keepalive, tcpinfo.UserTimeout, tcpinfo.MaxRetries, tcpinfo.ZeroWindow, tcpinfo.SynRetries,
		tcpinfo.FinWait1, tcpinfo.Closing, tcpinfo.LastAck, tcpinfo.CloseWait:
		return true
	}
	return false
}

// firsts tells who ended it first, and how.
func firsts(d *tcpinfo.Carried, c, b *Flow) {
	fin := func(f *Flow) bool { return f != nil && f.has(finFirstPeer) }
	rst := func(f *Flow) bool { return f != nil && f.has(rstSeen) }
	switch {
	case c.endedBy > 0:
		d.FirstBy = limitRules[c.endedBy-1]
	case b != nil && b.endedBy > 0:
		d.FirstBy = limitRules[b.endedBy-1]
	}
	switch {
	case fin(c):
		d.First, d.FirstOf = tcpinfo.Peer, tcpinfo.ClientLeg
	case fin(b):
		d.First, d.FirstOf = tcpinfo.Peer, tcpinfo.BackendLeg
	case rst(c):
		d.First, d.FirstOf, d.ByRST = tcpinfo.Peer, tcpinfo.ClientLeg, true
	case rst(b):
		d.First, d.FirstOf, d.ByRST = tcpinfo.Peer, tcpinfo.BackendLeg, true
	case d.FirstBy != "":
		d.First, d.ByRST = tcpinfo.Us, !c.has(parted)
	}
}
