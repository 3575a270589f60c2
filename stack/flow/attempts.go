package flow

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Attempts are what follows when a backend of a direct connection has refused, or
// has not answered in time: the client's leg waits without a mate while the next
// backend is chosen and dialled, and is refused when there is none.

// failed gives a backend up that has refused, or has stayed silent for as long as a
// rule allows. The next one is chosen once the locks are free.
func (p *pairing) failed(why tcpinfo.Rule, now instant) {
	t, client := p.t, p.client.key
	backend := p.other.key.remoteAddr()
	if why != tcpinfo.Refused { // RFC 9293, 3.5.2: no RST answers a RST
		t.ways.forget(backend)
		p.say(p.other, p.other.giveUp(), now)
	}
	sh, slot := p.place(p.other)
	c := p.client
	c.own(c.owner(), c.retries()+1)
	c.newer = 0 // no mate: whoever comes meanwhile is ignored
	t.forget(sh, p.other, slot)
	p.tried = func() { t.another(&client, backend, why) }
}

// giveUp is a RST for who may have taken our SYN and not told us.
func (f *Flow) giveUp() answer { return answer{rst: true, seq: f.iss + 1} }

// another makes the next attempt for a client that waits, after one that ended by a
// rule.
func (t *Table) another(client *key, after netip.AddrPort, why tcpinfo.Rule) {
	o, tries := t.waiting(client)
	if o == nil {
		t.refuse(client, nil, after, tcpinfo.Refused)
		return
	}
	err := syscall.ETIMEDOUT
	if why == tcpinfo.Refused {
		err = syscall.ECONNREFUSED
	}
	o.to.Tried(after, err)
	if tries > o.settings.ConnectRetries {
		t.refuse(client, o, after, why)
		return
	}
	backend, ok := o.to.Choose(client.remoteAddr(), after)
	switch {
	case !ok:
		t.refuse(client, o, after, why)
	case backend == after && why == tcpinfo.Refused:
		t.pause(client, tries) // it may be starting anew
	default:
		t.attempt(client, o, backend, why)
	}
}

// waits reports whether a flow is the leg of a client that waits for the next
// attempt, without a mate. There may be no flow.
func (f *Flow) waits() bool { return f != nil && f.has(carried) && !f.paired() }

// waiting tells of a client that waits for the next attempt whose it is, and how
// many have failed.
func (t *Table) waiting(client *key) (o *owned, tries int) {
	sh, h := t.shard(client)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f, _ := sh.find(client, h)
	if !f.waits() {
		return nil, 0
	}
	return t.ownerOf(f.owner()), int(f.retries())
}

// retryPause is the wait before the same backend is tried once more, longer each
// time: as for relayed connections.
const retryPause = 100 * time.Millisecond

// pause lets a client wait before the next attempt.
func (t *Table) pause(client *key, tries int) {
	sh, h := t.shard(client)
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f, slot := sh.find(client, h); f.waits() {
		f.flags |= turning // of a leg without a mate: it waits
		sh.time(f, slot, now.ms+milliseconds(retryPause)<<min(max(tries-1, 0), 8), now.ms)
		t.wind()
	}
}

// tryAgain goes on after a pause.
func (t *Table) tryAgain(client *key) {
	sh, h := t.shard(client)
	sh.mu.Lock()
	f, _ := sh.find(client, h)
	waits := f.waits() && f.has(turning)
	if waits {
		f.flags &^= turning
	}
	sh.mu.Unlock()
	if !waits {
		return
	}
	o, _ := t.waiting(client)
	if o == nil {
		t.refuse(client, nil, netip.AddrPort{}, tcpinfo.Refused)
		return
	}
	// The client's own address stands for a backend that nobody has.
	backend, ok := o.to.Choose(client.remoteAddr(), client.remoteAddr())
	if !ok {
		t.refuse(client, o, netip.AddrPort{}, tcpinfo.Refused)
		return
	}
	t.attempt(client, o, backend, tcpinfo.Refused)
}

// attempt dials a backend for a client that waits.
func (t *Table) attempt(client *key, o *owned, backend netip.AddrPort, why tcpinfo.Rule) {
	now := t.now()
	w := t.ways.get(backend, now)
	if w == nil {
		t.stepAside(client, o, backend)
		return
	}
	k, ok := t.source(w, backend, now)
	if !ok {
		t.refuse(client, o, backend, why)
		return
	}
	p := t.lockBoth(client, &k)
	if waits := p.f.waits(); !waits || p.m != nil {
		p.unlock()
		if waits {
			t.pause(client, 1) // somebody was quicker to take the port
		}
		return
	}
	p.dial(&k, w, now)
	p.unlock()
	p.speak()
}

// stepAside forgets a client that waits, because it is not known how the backend is
// reached that it should have. Its SYN comes again (RFC 6298, 2.1) and goes the
// ordinary way: the stack finds out.
func (t *Table) stepAside(client *key, o *owned, backend netip.AddrPort) {
	sh, h := t.shard(client)
	sh.mu.Lock()
	f, slot := sh.find(client, h)
	if !f.waits() {
		sh.mu.Unlock()
		return
	}
	t.forget(sh, f, slot)
	sh.mu.Unlock()
	t.carriedNow.Add(-1)
	o.to.Spared(backend)
}

// refuse tells a client that waits that there is nobody, as a host without a
// listener would (RFC 9293, 3.10.7.1). last is the backend of the last attempt, if it
// is known.
func (t *Table) refuse(client *key, o *owned, last netip.AddrPort, why tcpinfo.Rule) {
	sh, h := t.shard(client)
	now := t.now()
	sh.mu.Lock()
	f, slot := sh.find(client, h)
	if !f.waits() {
		sh.mu.Unlock()
		return
	}
	f.endedBy = ruleNumber(why)
	r := f.word(answer{rst: true, acked: true, ack: f.irs + 1})
	f.flags |= rstSent
	f.enter(Closed, now)
	c := t.describe(f, nil, now)
	c.Last = last
	t.forget(sh, f, slot)
	sh.mu.Unlock()
	t.put(&r)
	t.carriedNow.Add(-1)
	t.Count.CarriedEnds.Add(1)
	if o != nil {
		o.to.Ended(c)
	}
}
