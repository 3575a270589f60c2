package flow

import (
	"net/netip"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// A carried connection is two flows, its legs: the client's, which was accepted,
// and the backend's, which was dialled. What a peer says on one leg is translated
// and said on the other. Each leg knows where the other is, and both belong to
// their table's owner. Both shards are locked while a segment passes.
//
// A Flow stays as small as it was: on a leg some fields hold something else.
//
//	older, newer  shard and slot+1 of the other leg   (else: the queue of those in TIME-WAIT)
//	wl1           what is added to the peer's timestamps; of a parted leg: when it must have ended
//	wl2           number of the owner; attempts that failed
//	peerWindow    how often the acknowledged bytes have come round 2^32
//	tsRecentAt    when the peer was last heard
//	repeats       while nothing is under way: keepalive probes without an answer
//	finAt         in SYN-RECEIVED: when the client was first sent the SYN-ACK
func (f *Flow) mate() (shard uint8, slot uint32) { return uint8(f.older), f.newer - 1 }

// paired reports whether a flow is a leg that has a mate. There may be no flow.
func (f *Flow) paired() bool { return f != nil && f.has(carried) && f.newer != 0 }

func (f *Flow) join(sh *shard, slot uint32) { f.older, f.newer = uint32(sh.no), slot+1 }

func (f *Flow) tsDelta() uint32       { return f.wl1 }
func (f *Flow) setDelta(d uint32)     { f.wl1 = d }
func (f *Flow) partedBy() uint32      { return f.wl1 }
func (f *Flow) partBy(at uint32)      { f.wl1 = at }
func (f *Flow) owner() uint16         { return uint16(f.wl2) }
func (f *Flow) retries() uint8        { return uint8(f.wl2 >> 16) }
func (f *Flow) heard(now instant)     { f.tsRecentAt = now.ms }
func (f *Flow) lastHeard() uint32     { return f.tsRecentAt }
func (f *Flow) synAckAt() uint32      { return f.finAt }
func (f *Flow) answered() bool        { return f.sndNxt != f.iss }
func (f *Flow) underWay() bool        { return f.sndUna != f.sndNxt }
func (f *Flow) isClientLeg() bool     { return f.flags&(carried|dialled) == carried }
func (f *Flow) own(o uint16, r uint8) { f.wl2 = uint32(o) | uint32(r)<<16 }

// count follows the acknowledged bytes beyond 32 bits.
func (f *Flow) count(ack uint32) {
	if ack-f.iss < f.sndUna-f.iss && f.peerWindow < 1<<16-1 {
		f.peerWindow++
	}
}

// delivered are the bytes of data that the peer has acknowledged.
func (f *Flow) delivered() int64 {
	n := int64(f.peerWindow)<<32 + int64(f.sndUna-f.iss) - 1
	if f.has(finAcked) {
		n--
	}
	return max(n, 0)
}

// over reports whether a leg needs nobody to answer for it but itself.
func (f *Flow) over() bool { return f.state == TimeWait || f.state == Closed }

// pairing is a carried connection with both its shards locked.
type pairing struct {
	t             *Table
	fsh, msh      *shard
	f, m          *Flow // the leg that something happened on, and the other
	fslot, mslot  uint32
	card          uint8            // that a segment has come by
	client, other *Flow            // the same: the client's leg and the backend's
	says          []word           // to be sent once the locks are free
	fr            *frame.Frame     // a SYN may go in its place
	sent          bool             // it has
	again         bool             // it has ended, and the segment is a new one's
	full          []int            // policies whose TIME-WAITs are too many then
	tried         func()           // to be called then
	ended         *tcpinfo.Carried // to be told then, to owner
	owner         uint16
}

// lockMate locks the shard of a leg's mate as well; the leg's own is locked. If
// that needs it to be given back for a moment and the leg has changed, both are
// unlocked and ok is false: look again.
func (t *Table) lockMate(sh *shard, f *Flow, slot uint32) (p pairing, ok bool) {
	no, mslot := f.mate() // the caller has looked whether there is one
	msh := &t.shards[no]
	if msh != sh && !msh.mu.TryLock() {
		if msh.no > sh.no {
			msh.mu.Lock()
		} else {
			k, h := f.key, f.hash
			sh.mu.Unlock()
			msh.mu.Lock()
			sh.mu.Lock()
			again, at := sh.find(&k, h)
			if again == nil || at != slot || !again.has(carried) {
				sh.mu.Unlock()
				msh.mu.Unlock()
				return p, false
			}
			if n, s := again.mate(); n != no || s != mslot {
				sh.mu.Unlock()
				msh.mu.Unlock()
				return p, false
			}
			f = again
		}
	}
	p = pairing{t: t, fsh: sh, msh: msh, f: f, m: msh.at(mslot), fslot: slot, mslot: mslot}
	p.client, p.other = p.f, p.m
	if p.f.has(dialled) {
		p.client, p.other = p.m, p.f
	}
	return p, true
}

// lockPair finds a leg by its key and locks both.
func (t *Table) lockPair(k *key) (p pairing, ok bool) {
	sh, h := t.shard(k)
	for {
		sh.mu.Lock()
		f, slot := sh.find(k, h)
		if !f.paired() {
			sh.mu.Unlock()
			return p, false
		}
		if p, ok = t.lockMate(sh, f, slot); ok {
			return p, true
		}
	}
}

// join tells each leg where the other lies.
func (p *pairing) join() {
	p.f.join(p.msh, p.mslot)
	p.m.join(p.fsh, p.fslot)
}

func (p *pairing) unlock() {
	if p.msh != p.fsh {
		p.msh.mu.Unlock()
	}
	p.fsh.mu.Unlock()
}

// place is where a leg lies.
func (p *pairing) place(f *Flow) (*shard, uint32) {
	if f == p.f {
		return p.fsh, p.fslot
	}
	return p.msh, p.mslot
}

// owned is what the table knows of an owner.
type owned struct {
	name     string
	settings CarrierSettings
	to       CarrierOwner
}

// CarrierSettings are what the table needs to know of a service whose connections
// it carries.
type CarrierSettings struct {
	Policy         string
	IdleTimeout    time.Duration // 0 or less: none
	ConnectTimeout time.Duration
	ConnectRetries int
}

// CarrierOwner is a service whose connections are carried. Choose, Tried and
// Spared are called on the path of frames, Choose and Spared with no lock held.
type CarrierOwner interface {
	Choose(client, after netip.AddrPort) (backend netip.AddrPort, ok bool)
	Tried(backend netip.AddrPort, err error)
	Spared(backend netip.AddrPort)
	Ended(c *tcpinfo.Carried)
}

// Own makes an owner known, or puts another one of the same name in its place.
func (t *Table) Own(name string, to CarrierOwner, s CarrierSettings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next []owned
	if old := t.owners.Load(); old != nil {
		next = append(next, *old...)
	}
	for i := range next {
		if next[i].name == name {
			changed := next[i].settings != s
			next[i] = owned{name, s, to}
			t.owners.Store(&next)
			if changed {
				t.retime()
			}
			return
		}
	}
	next = append(next, owned{name, s, to})
	t.owners.Store(&next)
}

// ownerOf is who a number means, or nil.
func (t *Table) ownerOf(n uint16) *owned {
	if all := t.owners.Load(); all != nil && int(n) < len(*all) {
		return &(*all)[n]
	}
	return nil
}

func (t *Table) ownerNamed(name string) (uint16, bool) {
	if all := t.owners.Load(); all != nil {
		for i := range *all {
			if (*all)[i].name == name {
				return uint16(i), true
			}
		}
	}
	return 0, false
}

// carriage is how connections to a listening address are carried.
type carriage struct {
	owner uint16
	by    tcpinfo.Carrier
}

// Carry says how connections to a listening address are carried from now on.
func (t *Table) Carry(addr netip.AddrPort, owner string, by tcpinfo.Carrier) {
	n, ok := t.ownerNamed(owner)
	t.mu.Lock()
	defer t.mu.Unlock()
	next := make(map[netip.AddrPort]carriage)
	if old := t.carriages.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	if delete(next, addr); ok && by != tcpinfo.Relay {
		next[addr] = carriage{n, by}
	}
	t.carriages.Store(&next)
}

// carries reports whether any connection is carried.
func (t *Table) carries() bool {
	all := t.carriages.Load()
	return all != nil && len(*all) > 0
}

func (t *Table) carriageOf(addr netip.AddrPort) (carriage, bool) {
	all := t.carriages.Load()
	if all == nil || len(*all) == 0 {
		return carriage{}, false
	}
	c, ok := (*all)[addr]
	return c, ok
}

// bound is how many connections are carried at most, and what a further client gets.
type bound struct {
	most int
	full string
}

// BoundCarried bounds the carried connections: a client beyond most is refused
// ("refuse"), goes to the stack and is relayed ("relay"), or has the one reset
// that was idle for longest ("oldest"). Those there are stay.
func (t *Table) BoundCarried(most int, full string) { t.carriedMost.Store(&bound{most, full}) }

// Carried counts the connections that are carried now.
func (t *Table) Carried() int { return int(t.carriedNow.Load()) }

// full tells what a further client gets; "" if there is room.
func (t *Table) full() string {
	b := t.carriedMost.Load()
	if b == nil || t.carriedNow.Load() < int64(b.most) {
		return ""
	}
	return b.full
}

// turnAway answers a SYN for which there is no room, or makes room. It is false
// if the SYN goes the ordinary way. No lock is held.
func (t *Table) turnAway(f *frame.Frame, s *segment, how string) bool {
	t.Count.CarriedFull.Add(1)
	switch how {
	case "refuse":
		a := answer{rst: true, acked: true, ack: s.end()} // RFC 9293, 3.10.7.1
		policy, _ := t.listener(s.key.localAddr())
		a.write(f, &s.key, t.mark(policy))
		return true
	case "oldest":
		t.pushOut()
	}
	return false
}

// pushOutLooks is in how many shards that have connections the oldest is looked
// for: enough to be near it, few enough for the path of a frame.
const pushOutLooks = 4

// pushOut resets a connection that has been idle for long.
func (t *Table) pushOut() {
	var oldest tcpinfo.CarriedRef
	var age uint32
	now := t.now()
	for looked, tries := 0, 0; looked < pushOutLooks && tries < shards; tries++ {
		no := t.pushNext.Add(1) % shards
		sh := &t.shards[no]
		sh.mu.Lock()
		had := false
		sh.each(func(f *Flow) {
			if !f.paired() || !f.isClientLeg() {
				return
			}
			had = true
			if idle := min(now.ms-f.progress, now.ms-f.lastHeard()); oldest.ID == 0 || idle > age {
				_, slot := sh.find(&f.key, f.hash)
				age, oldest = idle, tcpinfo.CarriedRef{ID: f.id, Shard: no, Slot: slot}
			}
		})
		sh.mu.Unlock()
		if had {
			looked++
		}
	}
	if oldest.ID != 0 {
		t.End(oldest, tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.TableFull})
	}
}
