package proxy

import (
	"time"

	"github.com/lastack/lastack/services"
)

// pair is a client's connection and the backend's. Both wake it; the stage
// says what it then does:
//
//	Connecting -> Relaying -> Closing -> settled: both sides ended with FIN
//	     |            |          |
//	     +------------+----------+-----> aborted: RST to who hasn't ended
//
// Relaying ends without Closing when the peers finish by themselves.
type pair struct {
	services.Session
	proxy    *Proxy
	up, down services.Pipe

	target    *Backend      // of the current or last attempt
	begun     bool          // the client's events arrive
	half      bool          // one peer has finished
	counted   bool          // in target.active
	held      bool          // what the backend sends is held back
	attempts  int           // that failed
	waitUntil time.Duration // the attempt must have succeeded, or the next begins
	finished  time.Duration // Closing: since when
	finishBy  time.Duration // Closing: the peers' FINs must be there; 0 is no limit
	answered  bool          // what moved last went to the client
	turnBy    time.Duration // past the deadline of a drain: until when a good moment is waited for
}

// Run does what is ready.
func (p *pair) Run(now time.Duration, ready services.Ready) {
	if p.Gone() {
		p.PassOn(ready)
		return
	}
	if ready&services.ReadyStop != 0 {
		p.abort(now, services.Stopped, services.First{Who: "us", How: services.ByRST})
		return
	}
	switch {
	case ready&services.ReadyLost != 0:
		p.abort(now, services.AddressLost, services.First{Who: "us", How: services.ByRST})
		return
	case ready&services.ReadyKill != 0, ready&services.ReadyEnd != 0 && p.Stage() == services.Connecting:
		p.abort(now, services.Killed, services.First{Who: "us", How: services.ByRST})
		return
	case ready&services.ReadyEnd != 0 && p.Stage() == services.Relaying:
		p.finish(now, services.Killed, p.proxy.finFor())
		return
	}
	if p.Stage() != services.Connecting {
		p.relay(now, ready)
		return
	}
	if !p.begun {
		if p.begun = true; !p.Begin(now) {
			return
		}
	}
	p.connect(now, ready)
}

// relay moves what can be moved and looks whether the pair has ended.
func (p *pair) relay(now time.Duration, ready services.Ready) {
	if p.turnBy != 0 && p.Plan() == nil { // its drain was taken back
		p.turnBy = 0
		p.up.Stop(false)
	}
	if ready&services.ReadyDrain != 0 {
		ready |= services.ReadyClient | services.ReadyBackend // nothing may lie unread when it is judged
	}
	client, backend := ready&services.ReadyClient != 0, ready&services.ReadyBackend != 0
	if !p.move(now, &p.up, services.ReadyClient, client, backend) ||
		!p.move(now, &p.down, services.ReadyBackend, backend, client) {
		return
	}
	p.NoteFIN()
	if p.Client.Ended() && p.Backend.Ended() {
		p.release()
		p.Settle(now)
		return
	}
	if p.halfClosed() && !p.half {
		p.half = true
		p.Touch(now)
		if p.Stage() != services.Closing {
			p.bounded() // else finish has said it
		}
		ready |= services.ReadyTimer
	}
	if ready&(services.ReadyTimer|services.ReadyDrain) != 0 {
		p.limit(now, ready)
	}
}

// move runs one pipe if its ends say so, and reports whether the pair lives.
// again is the bit that brings the pipe back when its turn is over.
func (p *pair) move(now time.Duration, pipe *services.Pipe, again services.Ready, from, to bool) bool {
	if !pipe.From.Present() {
		return true // Closing before there was a backend
	}
	if !pipe.Wants(from, to) {
		// Nobody reads this side now, so nobody would see it die.
		if from {
			if err := p.Probe(pipe.From); err != nil {
				p.fail(now, pipe.From, err)
				return false
			}
		}
		return true
	}
	m := pipe.Move(p.Loop())
	if m.Stopped {
		p.cut(now)
		return false
	}
	if m.Bytes > 0 {
		p.Touch(now)
		p.answered = pipe == &p.down
		if p.turnBy != 0 {
			p.up.Stop(p.answered)
		}
		if plan := p.Plan(); plan != nil && p.Stage() == services.Closing && now > p.finished+plan.LingerRead && !pipe.From.EOF {
			p.abort(now, services.DrainDeadline, services.First{Who: "us", How: services.ByRST}) // it goes on sending
			return false
		}
	}
	if m.Err != nil {
		p.fail(now, m.Side, m.Err)
		return false
	}
	if pipe.From.EOF {
		// A reset that came right behind the FIN has no event of its own.
		if err := p.Probe(pipe.From); err != nil {
			p.fail(now, pipe.From, err)
			return false
		}
	}
	if m.More {
		p.Wake(again)
	}
	return true
}

// halfClosed reports whether one peer has finished and the other hasn't.
func (p *pair) halfClosed() bool { return p.Client.EOF != p.Backend.EOF }

// finish ends both directions: FIN behind what was read so far. The peers have
// limit to answer; 0 or less is for ever.
//
// With linger at 0s they are reset instead: the policy asks for it.
func (p *pair) finish(now time.Duration, why services.Reason, limit time.Duration) {
	if p.proxy.Settings().Policy.AbortiveClose {
		p.abort(now, why, services.First{Who: "us", How: services.ByRST})
		return
	}
	p.Because(why, "")
	if !p.Client.EOF && !p.Backend.EOF {
		p.Saw(services.First{Who: "us", How: services.ByFIN})
	}
	p.Enter(services.Closing)
	p.finished = now
	p.finishBy = 0
	p.EndsQuiet(services.NoBound, 0)
	if limit > 0 {
		p.finishBy = now + limit
		p.EndsAt(services.BoundFinWait2, p.finishBy)
	}
	p.up.Cut()
	p.down.Cut()
	if !p.Backend.Present() {
		p.up.To = nil // what the client sends is dropped
		if err := p.Client.CloseWrite(); err != nil {
			p.fail(now, &p.Client, err)
			return
		}
	}
	p.relay(now, services.ReadyClient|services.ReadyBackend|services.ReadyTimer)
}

func (p *pair) fail(now time.Duration, side *services.Side, err error) {
	p.release()
	p.Fail(now, side, err)
}

func (p *pair) abort(now time.Duration, why services.Reason, first services.First) {
	p.release()
	p.Abort(now, why, first)
}

// release gives back what the pair holds besides its connections.
func (p *pair) release() {
	p.up.Drop(p.Loop())
	p.down.Drop(p.Loop())
	if p.counted {
		p.counted = false
		p.target.active.Add(-1)
	}
}

// Panicked gives the pair up.
func (p *pair) Panicked(now time.Duration) {
	p.abort(now, services.InternalError, services.First{Who: "us", How: services.ByRST})
}
