package proxy

import (
	"math"
	"time"

	"github.com/lastack/lastack/services"
)

const never = time.Duration(math.MaxInt64)

// arm sets the timer, but for the drain's deadline at the latest.
func (p *pair) arm(at time.Duration) {
	if plan := p.Plan(); plan != nil {
		_, deadline := plan.Turn(p.ID())
		at = min(at, deadline)
	}
	p.Arm(at)
}

// limit ends what has reached a limit, and sets the timer for the next.
// Moving bytes sets no timer: it is looked at only when one is due.
func (p *pair) limit(now time.Duration, ready services.Ready) {
	if p.Stage() == services.Closing {
		p.limitClosing(now, ready)
		return
	}
	next := never
	if idle := p.proxy.conf().IdleTimeout; idle > 0 {
		if next = p.Moved() + idle; now >= next {
			p.finish(now, services.IdleTimeout, p.proxy.finFor())
			return
		}
	}
	if p.half {
		limit, why := p.halfLimit()
		at := p.Moved() + limit
		if limit > 0 && now >= at {
			p.abort(now, why, services.First{Who: "us", How: services.ByTimeout})
			return
		}
		if limit > 0 {
			next = min(next, at)
		}
	}
	at, ended := p.ask(now)
	if ended {
		return
	}
	next = min(next, at)
	if plan := p.Plan(); plan != nil {
		at, ended := p.drain(now, plan)
		if ended {
			return
		}
		next = min(next, at)
	}
	if next < never {
		p.Arm(next)
	}
}

// bounded tells listings what ends the pair when no byte moves.
func (p *pair) bounded() {
	b, limit := services.BoundIdle, p.proxy.conf().IdleTimeout
	if p.half {
		most, why := p.halfLimit()
		if most > 0 && (limit <= 0 || most < limit) {
			b, limit = services.BoundHalfClose, most
			if why == services.FinWait2Timeout {
				b = services.BoundFinWait2
			}
		}
	}
	p.EndsQuiet(b, limit)
}

// halfLimit is how long the peer that has not finished may be silent. Its side
// is in FIN-WAIT-2, so fin_wait2 bounds it where half_close does not: nothing
// else would, since its kernel answers keepalive for ever.
func (p *pair) halfLimit() (time.Duration, services.Reason) {
	if p.proxy.halfFor() > 0 {
		return p.proxy.halfFor(), services.HalfCloseTimeout
	}
	return p.proxy.finFor(), services.FinWait2Timeout
}

// drain closes the pair if it is quiet or the deadline has come; else it says
// when to look again. A pair of which one peer has finished is about to end by
// itself: the other's answer is awaited.
func (p *pair) drain(now time.Duration, plan *services.Plan) (again time.Duration, ended bool) {
	from, deadline := plan.Turn(p.ID())
	quietAt := max(p.Moved()+services.Quiet, from)
	switch {
	case now >= deadline && (p.halfClosed() || now >= quietAt):
		p.cut(now)
		return 0, true
	case now >= deadline:
		return p.turn(now, plan)
	case p.halfClosed():
		return deadline, false
	case p.up.Holds() || p.down.Holds():
		return min(now+services.Quiet, deadline), false
	case now < quietAt:
		return min(quietAt, deadline), false
	}
	p.finish(now, services.Drained, plan.FinGrace)
	return 0, true
}

// turnQuiet without a byte after one that went to the client is taken for the
// end of an answer.
const turnQuiet = 20 * time.Millisecond

// turn cuts a busy pair when its turn ends: the client sends again after an
// answer, or nothing moves after one; or when no more time is left.
func (p *pair) turn(now time.Duration, plan *services.Plan) (again time.Duration, ended bool) {
	if p.turnBy == 0 {
		p.turnBy = now + min(services.TurnMost, plan.FinGrace/2)
		p.up.Stop(p.answered)
	}
	if now >= p.turnBy || p.answered && now >= p.Moved()+turnQuiet {
		p.cut(now)
		return 0, true
	}
	return min(p.turnBy, max(p.Moved(), now)+turnQuiet), false
}

// cut ends a busy pair past the deadline. What is left of fin_grace is for the
// peers' FINs.
func (p *pair) cut(now time.Duration) {
	p.up.Stop(false)
	limit := p.proxy.finFor()
	if plan := p.Plan(); plan != nil {
		_, deadline := plan.Turn(p.ID())
		limit = max(deadline+plan.FinGrace-now, plan.FinGrace/2)
	}
	p.finish(now, services.DrainDeadline, limit)
}

// limitClosing resets peers that don't answer our FIN.
func (p *pair) limitClosing(now time.Duration, ready services.Ready) {
	if plan := p.Plan(); plan != nil && ready&services.ReadyDrain != 0 {
		by := now + plan.FinGrace
		if p.finishBy == 0 || by < p.finishBy {
			p.finishBy = by
			p.EndsAt(services.BoundFinWait2, by)
		}
	}
	next := never
	if p.finishBy != 0 {
		next = p.finishBy
	}
	if now >= next {
		p.abort(now, services.FinWait2Timeout, services.First{Who: "us", How: services.ByTimeout})
		return
	}
	if by, waits := p.LingerBy(p.finished); waits {
		if now >= by {
			p.Because(services.FinUnacked, "")
			p.abort(now, services.FinUnacked, services.First{Who: "us", How: services.ByTimeout})
			return
		}
		if by < next {
			next = by
			p.EndsAt(services.BoundLinger, by)
		}
	}
	if next < never {
		p.Arm(next)
	}
}
