package services

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// A drain of carried connections looks through them when it begins, and again
// when the next may be due. What it decides is what a proxy decides of those
// that it relays; the waiting for a good moment, and for the peers' FINs, is the
// Carrier's.

// ending is one that a scan has decided to end.
type ending struct {
	ref tcpinfo.CarriedRef
	how tcpinfo.CarriedEnd
}

const (
	// endBurst is how many a run ends before others have their turn: some
	// milliseconds.
	endBurst = 1024
	// endMost bounds what one scan notes, to 5 MB; the rest is the next scan's.
	endMost = 64 << 10
	// scanShare is how many times longer than a scan takes the loop does
	// something else.
	scanShare = 10

	never = time.Duration(math.MaxInt64)
)

// TurnMost is how long past the deadline of a drain a busy connection may go on
// until it can be cut between an answer and the next request: then the client
// knows that nobody has acted on what it asked, and may ask again.
const TurnMost = 500 * time.Millisecond

// Run scans if it is due, and ends what was found.
func (c *carriage) Run(now time.Duration, ready Ready) {
	switch {
	case c.carrier == nil:
		return
	case ready&(ReadyDrain|ReadyStop|ReadyTimer) != 0:
		c.scan(now, ready&ReadyDrain != 0 || c.fresh)
	case ready&ReadyBackend != 0: // goes on with todo
	case ready&ReadyStart != 0:
		c.fresh = true
		if c.rescan = len(c.todo) > 0; !c.rescan {
			c.ArmBy(max(now+tick, c.notYet))
		}
	}
	n := min(len(c.todo), endBurst)
	for _, e := range c.todo[:n] {
		c.carrier.End(e.ref, e.how)
	}
	if c.todo = c.todo[n:]; len(c.todo) > 0 {
		c.Wake(ReadyBackend)
		return
	}
	c.todo = nil
	if c.rescan {
		c.next, c.rescan, c.fresh = c.notYet, false, true
	}
	if c.next < never {
		c.ArmBy(c.next)
	}
}

// Panicked goes on with the next scan.
func (c *carriage) Panicked(now time.Duration) {
	c.todo = nil
	c.ArmBy(now + settleEvery)
}

// scan looks through all connections and notes which are to end. fresh tells
// that a plan is new, or has another deadline, or that a connection is.
func (c *carriage) scan(now time.Duration, fresh bool) {
	since := c.scanned
	if c.scanned = now; fresh {
		since = -1
	}
	c.todo, c.next, c.rescan, c.fresh = nil, never, false, false
	c.Disarm()
	brings := c.broughtAlong()
	whole, aims, closed := c.server.plan.Load(), c.aimed(), c.server.phase.get() == Closed
	if c.live() == 0 || whole == nil && len(aims) == 0 && !closed {
		c.prune(aims, make([]bool, len(aims)), brings, now)
		return
	}
	abortive := c.server.Settings().Policy.AbortiveClose
	seen := make([]bool, len(aims))
	c.views(func(v *tcpinfo.CarriedView) {
		if closed {
			c.note(v.Ref, tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.Stopped})
			return
		}
		plan := whole
		for i := range aims {
			if aims[i].meets(v.Backend, v.Ref.ID) {
				seen[i] = true
				plan = earlier(whole, aims[i].plan)
				break
			}
		}
		if plan == nil {
			return
		}
		end, at := plan.judge(v, since, now)
		c.next = min(c.next, at)
		if end.How == "" {
			return
		}
		if abortive {
			end.How = "rst"
		}
		c.note(v.Ref, end)
	})
	c.prune(aims, seen, brings, now)
	took := c.Loop().Now() - now
	if closed || whole != nil || c.aims.Load() != nil {
		c.next = min(c.next, now+settleEvery) // those that are not there yet
	}
	c.notYet = now + max(tick, scanShare*took)
	c.next = max(c.next, c.notYet)
	c.keepDeadline(whole, now)
	for i := range aims {
		c.keepDeadline(aims[i].plan, now)
	}
}

// keepDeadline has a scan at a plan's deadline, however long scans take.
func (c *carriage) keepDeadline(p *Plan, now time.Duration) {
	if p != nil && p.Deadline > now {
		c.next = min(c.next, p.Deadline)
	}
}

func (c *carriage) note(ref tcpinfo.CarriedRef, how tcpinfo.CarriedEnd) {
	if len(c.todo) == endMost {
		c.rescan = true
		return
	}
	c.todo = append(c.todo, ending{ref, how})
}

// pruneAfter is how long a drain must have had nothing to wait for to be
// forgotten: the end of the last may not be told yet.
const pruneAfter = time.Second

// prune forgets drains that have nothing left to wait for. A connection that comes
// later, because it was under way, brings its drain along.
func (c *carriage) prune(aims []aim, seen []bool, brings int, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range aims {
		if seen[i] {
			c.sighted[a.plan] = now
		}
		if now < max(a.plan.Start, c.sighted[a.plan])+pruneAfter || c.brings != brings {
			c.next = min(c.next, now+handshakeGrace)
			continue
		}
		c.unaimLocked(a.plan)
	}
	maps.DeleteFunc(c.sighted, func(p *Plan, _ time.Duration) bool {
		return !slices.ContainsFunc(c.aimed(), func(a aim) bool { return a.plan == p })
	})
}

func (c *carriage) broughtAlong() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.brings
}

// earlier is the one of a service's plan and of another that ends first.
func earlier(whole, own *Plan) *Plan {
	if own != nil && (whole == nil || own.Deadline < whole.Deadline) {
		return own
	}
	return whole
}

// judge tells how a carried connection is to end now, or when to look again. What
// was told by the look before, at since, is not told again; -1 is to tell all.
func (p *Plan) judge(v *tcpinfo.CarriedView, since, now time.Duration) (end tcpinfo.CarriedEnd, at time.Duration) {
	from, deadline := p.Turn(v.Ref.ID)
	quietAt := max(now-v.Moved+Quiet, from)
	quiet := v.Quiet && now >= quietAt
	patience := min(TurnMost, p.FinGrace/2)
	cut := tcpinfo.CarriedEnd{
		How: "fin", Why: tcpinfo.DrainDeadline, Patience: patience,
		Grace: max(deadline+p.FinGrace-now-patience, p.FinGrace/2),
	}
	switch {
	case v.Parted && since < 0:
		return tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.DrainDeadline, Patience: p.FinGrace, Grace: p.FinGrace}, never
	case v.Parted:
		return end, never
	case v.Finished:
		return tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Drained, Patience: p.FinGrace, Grace: p.FinGrace}, never
	case v.Connecting && now >= deadline:
		return tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.DrainDeadline}, never
	case v.Connecting:
		return end, deadline
	case since >= deadline:
		return end, never
	case now >= deadline && (v.HalfClosed || quiet):
		return cut, never
	case now >= deadline:
		cut.How = "turn"
		return cut, never
	case v.HalfClosed:
		return end, deadline
	case now < quietAt:
		return end, min(quietAt, deadline)
	case !quiet:
		return end, min(now+Quiet, deadline)
	}
	return tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Drained, Patience: max(patience, min(deadline-now, p.FinGrace)), Grace: p.FinGrace}, never
}
