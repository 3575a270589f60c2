package diag

import (
	"time"

	"github.com/lastack/lastack/services"
)

// talk is one connection to a diagnostic service.
type talk struct {
	services.Session
	diag *Diag
	in   services.Pipe // to nowhere, or for echo back to the client
	out  services.Pipe // for discard: to the client, our own words only

	begun    bool
	asked    bool          // the client has sent something
	text     []byte        // daytime, health: what to send
	said     int           // how much of it, or the place in chargen's pattern
	finished time.Duration // when we sent our FIN
	finishBy time.Duration // the client's FIN must be there; 0 is no limit
}

// Run does what is ready.
func (t *talk) Run(now time.Duration, ready services.Ready) {
	if t.Gone() {
		return
	}
	if ready&services.ReadyStop != 0 {
		t.abort(now, services.Stopped)
		return
	}
	if ready&services.ReadyLost != 0 {
		t.abort(now, services.AddressLost)
		return
	}
	if ready&services.ReadyKill != 0 {
		t.abort(now, services.Killed)
		return
	}
	if !t.begun {
		if t.begun = true; !t.Begin(now) {
			return
		}
		t.Connected(now)
	}
	if ready&services.ReadyEnd != 0 && t.Stage() != services.Closing && !t.Client.FIN {
		t.Because(services.Killed, "")
		t.finish(now, t.diag.Settings().Policy.FinWait2)
		return
	}
	if t.listen(now) && t.answer(now) && t.utter(now) {
		t.judge(now, ready)
	}
}

// listen takes what the client sends and reports whether the talk lives.
func (t *talk) listen(now time.Duration) bool {
	if !t.in.Wants(true, true) {
		return true
	}
	m := t.in.Move(t.Loop())
	t.asked = t.asked || m.Bytes > 0
	return t.went(now, m.Bytes, m.More, m.Err)
}

// answer says what there is to say.
func (t *talk) answer(now time.Duration) bool {
	if t.diag.speak == nil || t.Client.FIN {
		return true
	}
	s := t.diag.speak(t)
	return t.went(now, s.bytes, s.more, s.err)
}

func (t *talk) went(now time.Duration, bytes int, more bool, err error) bool {
	if err == nil && (t.in.Holds() || t.Client.EOF) {
		// Nobody reads now, so nobody would see the client die.
		err = t.Probe(&t.Client)
	}
	if err != nil {
		t.drop()
		t.Fail(now, &t.Client, err)
		return false
	}
	if bytes > 0 {
		t.Touch(now)
	}
	if more {
		t.Wake(services.ReadyStart)
	}
	return true
}

// judge looks whether the talk has ended or must.
func (t *talk) judge(now time.Duration, ready services.Ready) {
	t.NoteFIN()
	if t.Client.FIN {
		t.Saw(services.First{Who: "us", How: services.ByFIN})
	}
	plan := t.Plan()
	switch {
	case t.Client.Ended():
		t.drop()
		t.Settle(now)
	case t.Client.FIN || t.Stage() == services.Closing:
		t.awaitFIN(now, plan, ready)
	case plan != nil:
		t.drain(now, plan)
	default:
		t.ask(now)
	}
}

// awaitFIN resets a client that doesn't answer our FIN in time.
func (t *talk) awaitFIN(now time.Duration, plan *services.Plan, ready services.Ready) {
	if t.Stage() != services.Closing {
		t.Enter(services.Closing)
		t.finished = now
		if limit := t.diag.Settings().Policy.FinWait2; limit > 0 {
			t.finishBy = now + limit
			t.EndsAt(services.BoundFinWait2, t.finishBy)
		}
	}
	if plan != nil && ready&services.ReadyDrain != 0 {
		if by := now + plan.FinGrace; t.finishBy == 0 || by < t.finishBy {
			t.finishBy = by
			t.EndsAt(services.BoundFinWait2, by)
			t.Because(services.Drained, "")
		}
	}
	if t.finishBy != 0 && now >= t.finishBy {
		t.abort(now, services.FinWait2Timeout)
		return
	}
	if t.finishBy != 0 {
		t.ArmBy(t.finishBy)
	}
	by, waits := t.LingerBy(t.finished)
	switch {
	case waits && now >= by:
		t.abort(now, services.FinUnacked)
	case waits:
		if t.finishBy == 0 || by < t.finishBy {
			t.EndsAt(services.BoundLinger, by)
		}
		t.ArmBy(by)
	}
}

// drain finishes the talk when it is quiet, or at the deadline.
func (t *talk) drain(now time.Duration, plan *services.Plan) {
	from, deadline := plan.Turn(t.ID())
	quietAt := max(t.Moved()+services.Quiet, from)
	busy := now < from || !t.diag.endless && (now < quietAt || t.in.Holds())
	switch {
	case now >= deadline:
		t.Because(services.DrainDeadline, "")
	case busy:
		t.Arm(min(max(quietAt, now+services.Quiet), deadline))
		return
	default:
		t.Because(services.Drained, "")
	}
	t.finish(now, plan.FinGrace)
}

// finish sends our FIN behind what was said. The client has limit to answer; 0
// or less is for ever.
func (t *talk) finish(now, limit time.Duration) {
	if t.diag.Settings().Policy.AbortiveClose {
		t.drop()
		t.Abort(now, services.Killed, services.First{Who: "us", How: services.ByRST}) // the reason is known already
		return
	}
	t.Enter(services.Closing)
	t.finished = now
	t.Disarm()
	if t.finishBy = 0; limit > 0 {
		t.finishBy = now + limit
		t.EndsAt(services.BoundFinWait2, t.finishBy)
	}
	t.in.Cut()
	if !t.in.Holds() {
		if err := t.Client.CloseWrite(); err != nil {
			t.Fail(now, &t.Client, err)
			return
		}
	}
	t.Wake(services.ReadyStart) // to drop what is unread
}

func (t *talk) abort(now time.Duration, why services.Reason) {
	t.drop()
	t.Abort(now, why, services.First{Who: "us", How: services.ByRST})
}

// drop forgets what the client has not taken.
func (t *talk) drop() {
	t.in.Drop(t.Loop())
	t.out.Drop(t.Loop())
}

// Panicked gives the talk up.
func (t *talk) Panicked(now time.Duration) { t.abort(now, services.InternalError) }
