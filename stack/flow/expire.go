package flow

import (
	"slices"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// handshakeMost is when the table forgets a handshake that came to nothing.
// gVisor gives up after 127 s at the latest.
const handshakeMost = 130 * time.Second

// orphanMost is when gVisor has surely given up a connection in FIN-WAIT-2
// that nobody holds: its limit is two minutes (TCP_LINGER2).
const orphanMost = 121 * time.Second

// batch is how many flows are looked at under one lock of a shard: ten
// microseconds, which is what a frame may have to wait.
const batch = 64

// limitRules are the rules that the table itself enforces; Flow.endedBy is an
// index here plus one.
var limitRules = [...]tcpinfo.Rule{
	tcpinfo.FinWait1, tcpinfo.Closing, tcpinfo.LastAck, tcpinfo.CloseWait, tcpinfo.ZeroWindow, tcpinfo.SynRetries,
	// Of carried connections besides:
	tcpinfo.Keepalive, tcpinfo.UserTimeout, tcpinfo.MaxRetries, tcpinfo.FinWait2, tcpinfo.IdleTimeout, tcpinfo.HalfClose,
	tcpinfo.ConnectTimeout, tcpinfo.Refused, tcpinfo.Drained, tcpinfo.DrainDeadline, tcpinfo.Killed, tcpinfo.Stopped, tcpinfo.AddressLost, tcpinfo.TableFull,
}

// ruleNumber is what Flow.endedBy keeps of a rule.
func ruleNumber(r tcpinfo.Rule) uint8 {
	for i, one := range limitRules {
		if one == r {
			return uint8(i + 1)
		}
	}
	return 0
}

// Start turns the wheels from now on. limit ends a connection whose time is
// over and reports whether there was one. Both functions are called without any lock
// of a shard, and may be nil.
func (t *Table) Start(limit func(Limit) bool, resend ResendFunc) {
	t.timing.Lock()
	defer t.timing.Unlock()
	t.limit, t.resend = limit, resend
	t.ticking.Store(true)
	timer := t.clock.AfterFunc(wheelTick*time.Millisecond, t.tick)
	t.timer.Store(&timer)
}

// tick turns the wheels of all shards up to now, and goes on as long as there
// is something in one.
func (t *Table) tick() {
	t.timing.Lock()
	defer t.timing.Unlock()
	if t.closed {
		return
	}
	t.ticking.Store(false)
	busy := t.probes.tick(t)
	var others yielder
	for i := range t.shards {
		busy = t.turn(&t.shards[i], &others) || busy
	}
	if busy {
		t.wind()
	}
}

// wind makes the wheels turn, if they stand still. It may be called with a
// shard's lock held.
func (t *Table) wind() {
	if timer := t.timer.Load(); timer != nil && !t.ticking.Swap(true) {
		(*timer).Reset(wheelTick * time.Millisecond)
	}
}

// turn moves a shard's wheel up to now, with its lock given back now and then,
// and reports whether there is still something in it.
func (t *Table) turn(sh *shard, others *yielder) (busy bool) {
	for {
		var e elapsed
		sh.mu.Lock()
		if sh.timed == 0 {
			sh.mu.Unlock()
			return false
		}
		now := t.now()
		behind := sh.pending != 0 || int32(now.ms/wheelTick-sh.turned) > 0
		if behind {
			sh.turn(now.ms, batch, func(f *Flow, slot uint32) {
				if f.has(carried) {
					e.legs = append(e.legs, f.key)
					return
				}
				t.expire(sh, f, slot, now, &e)
			})
		}
		busy = sh.timed > 0
		sh.mu.Unlock()
		for i := range e.legs {
			t.due(&e.legs[i])
		}
		for i := range e.late {
			t.hasten(&e.late[i])
		}
		for _, l := range e.over {
			t.Count.Limited.Add(1)
			if t.limit == nil || !t.limit(l) {
				t.Forget(l.Local, l.Remote)
			}
		}
		if !behind {
			return busy
		}
		others.pause()
	}
}

// elapsed is what is to be done, without any lock of a shard, for flows whose time
// has come.
type elapsed struct {
	over []Limit // relayed ones that end
	legs []key   // carried ones
	late []key   // relayed ones with something unacknowledged
}

// expire looks at a flow whose time has come, unless it has moved.
func (t *Table) expire(sh *shard, f *Flow, slot uint32, now instant, e *elapsed) {
	due, rule, ok := t.deadline(f)
	switch {
	case !ok || int32(due-now.ms) > 0:
		if f.unanswered() && now.ms-f.progress >= lookAfter {
			e.late = append(e.late, f.key)
		}
		t.rearm(sh, f, slot, now)
	case rule == tcpinfo.TimeWait:
		t.Count.Expired.Add(1)
		t.forget(sh, f, slot)
	case rule == tcpinfo.FinWait2, rule == "":
		t.forget(sh, f, slot) // gVisor gives up by itself
	default:
		f.endedBy = ruleNumber(rule)
		e.over = append(e.over, Limit{f.key.localAddr(), f.key.remoteAddr(), f.id, rule})
	}
}

// handshake is how long an unanswered SYN or SYN-ACK takes that is repeated
// that often: after one second, and twice as long each time (RFC 6298, 2.1 and 5.5).
func handshake(retries int) time.Duration {
	if retries <= 0 || retries > 6 {
		return handshakeMost
	}
	return min(time.Second<<(retries+1)-time.Second, handshakeMost)
}

// rearm sets the flow's timer for the state it is in, and for what is unacknowledged.
func (t *Table) rearm(sh *shard, f *Flow, slot uint32, now instant) {
	due, _, ok := t.deadline(f)
	if f.unanswered() {
		look := f.nextLook(now)
		if f.timed && int32(f.due-look) < 0 {
			look = f.due
		}
		if !ok || int32(look-due) < 0 {
			due, ok = look, true
		}
	}
	if ok {
		sh.time(f, slot, due, now.ms)
		t.wind()
		return
	}
	sh.untime(f)
}

// retime sets the timers of all flows anew, because the bounds are others now: a
// timer may be far away that is to fire soon. TIME-WAIT lasts as long as was said
// when it began.
func (t *Table) retime() {
	for i := range t.shards {
		sh := &t.shards[i]
		var keys []key
		sh.mu.Lock()
		sh.each(func(f *Flow) {
			if f.state != TimeWait {
				keys = append(keys, f.key)
			}
		})
		sh.mu.Unlock()
		for some := range slices.Chunk(keys, batch) {
			now := t.now()
			sh.mu.Lock()
			for _, k := range some {
				_, h := t.shard(&k)
				if f, slot := sh.find(&k, h); f != nil && f.state != TimeWait {
					t.rearm(sh, f, slot, now)
				}
			}
			sh.mu.Unlock()
		}
	}
}

// deadline is when the flow's state ends if nothing moves, and by which rule.
func (t *Table) deadline(f *Flow) (due uint32, rule tcpinfo.Rule, ok bool) {
	if f.has(carried) {
		return t.carriedDeadline(f)
	}
	limit := time.Duration(-1)
	p := t.policy(f.policy)
	switch f.state {
	case SynSent, SynReceived:
		limit, rule = handshake(p.Retransmit.SynRetries), tcpinfo.SynRetries
	case Established:
		if f.id == 0 {
			limit = handshakeMost // nobody has accepted it, or gVisor did not take the last ACK
		}
	case FinWait1:
		limit, rule = p.FinWait1, tcpinfo.FinWait1
	case Closing:
		limit, rule = p.Closing, tcpinfo.Closing
	case LastAck:
		limit, rule = p.LastAck, tcpinfo.LastAck
	case CloseWait:
		limit, rule = p.CloseWait, tcpinfo.CloseWait
	case FinWait2:
		if f.has(released) {
			limit, rule = orphanMost, tcpinfo.FinWait2
			if p.FinWait2 >= 0 {
				limit = min(p.FinWait2+time.Second, orphanMost)
			}
		}
	case TimeWait:
		limit, rule = max(p.TimeWait.Duration, 0), tcpinfo.TimeWait
	}
	ok = limit >= 0
	since := f.progress
	if !f.state.synchronized() {
		since = uint32(f.began/1e6) + f.entered[f.state] - 1 // a repeated SYN is no progress
	}
	due = since + uint32(limit.Milliseconds())
	if f.has(zeroWindow) && f.closedWnd != 0 && p.ZeroWindow > 0 && f.state.synchronized() && f.state != TimeWait {
		if at := f.closedWnd + uint32(p.ZeroWindow.Milliseconds()); !ok || int32(at-due) < 0 {
			return at, tcpinfo.ZeroWindow, true
		}
	}
	return due, rule, ok
}
