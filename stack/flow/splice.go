package flow

import (
	"errors"
	"net/netip"

	"github.com/lastack/lastack/netif/frame"
)

// Ends names one of the stack's connections.
type Ends struct {
	Local, Remote netip.AddrPort
	ID            uint64
}

// Reasons why two connections can't be spliced.
var (
	errUnseen     = errors.New("its handshake was not seen: SYN cookies were in use")
	errNotOpen    = errors.New("one side is not established any more")
	errDelivered  = errors.New("bytes had reached the stack already")
	errTimestamps = errors.New("only one side has agreed to timestamps")
	errOwner      = errors.New("nobody owns it")
	errFull       = errors.New("as many as carried.max are carried")
)

// Splice joins two established connections of the stack's, neither of which has
// moved a byte: from now on the table carries the segments of one to the other.
// What the stack still says of them reaches nobody; it is to abort them. Nothing
// has changed after an error.
func (t *Table) Splice(client, backend Ends, owner string) error {
	n, ok := t.ownerNamed(owner)
	if !ok {
		return errOwner
	}
	if t.full() != "" {
		t.Count.CarriedFull.Add(1)
		return errFull
	}
	ck, bk := keyOf(client.Local, client.Remote), keyOf(backend.Local, backend.Remote)
	p, now := t.lockBoth(&ck, &bk), t.now()
	if err := p.joinable(client.ID, backend.ID); err != nil {
		p.unlock()
		return err
	}
	p.splice(n, now)
	near, far := p.f.card, p.m.card
	t.Count.Spliced.Add(1)
	t.carriedNow.Add(1)
	p.unlock()
	t.replay(&ck, near)
	t.replay(&bk, far)
	return nil
}

// lockBoth locks the shards of two flows, which may be missing.
func (t *Table) lockBoth(a, b *key) pairing {
	ash, ah := t.shard(a)
	bsh, bh := t.shard(b)
	switch {
	case ash == bsh:
		ash.mu.Lock()
	case ash.no < bsh.no:
		ash.mu.Lock()
		bsh.mu.Lock()
	default:
		bsh.mu.Lock()
		ash.mu.Lock()
	}
	p := pairing{t: t, fsh: ash, msh: bsh}
	p.f, p.fslot = ash.find(a, ah)
	p.m, p.mslot = bsh.find(b, bh)
	p.client, p.other = p.f, p.m
	return p
}

// joinable tells why the two can't be joined, or nil.
func (p *pairing) joinable(client, backend uint64) error {
	for i, f := range [...]*Flow{p.f, p.m} {
		want := client
		if i == 1 {
			want = backend
		}
		switch {
		case f == nil || f.id != want || f.has(rstSeen|rstSent|carried):
			return errNotOpen
		case f.has(blind) || !f.has(synsSeen):
			return errUnseen
		case f.state != Established || f.has(peerFinSeen|finSent):
			return errNotOpen
		case f.underWay() || f.sndNxt != f.iss+1 || f.rcvNxt != f.irs+1:
			return errDelivered
		}
	}
	if p.f.has(timestamps) != p.m.has(timestamps) {
		return errTimestamps
	}
	return nil
}

// splice makes the two legs one connection.
func (p *pairing) splice(owner uint16, now instant) {
	for _, f := range [...]*Flow{p.f, p.m} {
		f.flags = f.flags&^holding | carried
		f.own(owner, 0)
		f.peerWindow, f.repeats, f.progress = 0, 0, now.ms
		f.heard(now)
	}
	p.m.id = p.f.id
	// Timestamps go on where each peer saw ours last, and never before that
	// (RFC 7323, 5.3: an older one is dropped).
	p.f.setDelta(p.m.tsLast - p.f.tsRecent)
	p.m.setDelta(p.f.tsLast - p.m.tsRecent)
	p.join()
	p.rearm(p.f, now)
	p.rearm(p.m, now)
}

// replay carries what was held back of a leg that is reached by a card.
func (t *Table) replay(k *key, card uint8) {
	c := (*t.cards.Load())[card]
	for _, one := range t.holds.take(k) {
		fr := one.frame()
		l, ok := frame.Parse(fr.Net)
		var s segment
		if !ok || !s.readInbound(fr.Net, l) {
			continue
		}
		s.held = true
		sh, h := t.shard(&s.key)
		_, _, v, done := c.onLeg(sh, h, fr, l, &s, t.now())
		switch {
		case !done:
			sh.mu.Unlock() // it has ended
		case v == frame.Forward:
			t.sendBy(fr)
		case v == frame.Reply:
			t.sendOn(card, fr.Meta, fr.Eth, fr.Net)
		}
	}
}

// sendBy sends a frame that was translated, by the card it is to leave by.
func (t *Table) sendBy(fr *frame.Frame) {
	for i, c := range *t.cards.Load() {
		if to := c.outlet.Load(); to != nil && *to == fr.To {
			t.sendOn(uint8(i), fr.Meta, fr.Head, fr.Body)
			return
		}
	}
}

func (t *Table) sendOn(card uint8, meta frame.Header, head, body []byte) {
	if send := (*t.cards.Load())[card].send.Load(); send != nil {
		(*send)(meta, head, body)
	}
}
