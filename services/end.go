package services

import (
	"syscall"
	"time"
)

// Fail ends the session because a side's connection failed: the other side is
// reset, since RST passes as RST.
func (s *Session) Fail(now time.Duration, side *Side, err error) {
	cause, how := causeOf(err)
	side.died = how
	reason, who := cause.client, "client"
	if side == &s.Backend {
		reason, who = cause.backend, "backend"
	} else if reason == ClientReset && s.Stage() == Connecting {
		reason = ClientLeft
	}
	s.Because(reason, err.Error())
	s.Abort(now, reason, First{who, how})
}

// Probe reports a side that died although nobody reads it now.
func (s *Session) Probe(side *Side) error {
	if side.EOF && side.FIN {
		return nil
	}
	return side.death()
}

// NoteFIN keeps which side's FIN was read first.
func (s *Session) NoteFIN() {
	switch {
	case s.first.Who != "":
	case s.Client.EOF:
		s.first = First{"client", ByFIN}
	case s.Backend.EOF:
		s.first = First{"backend", ByFIN}
	}
}

// Abort ends the session at once: a side that hasn't ended with FIN is reset.
func (s *Session) Abort(now time.Duration, r Reason, f First) {
	if s.ended {
		s.fault(r)
		return
	}
	s.Because(r, "")
	s.Saw(f)
	s.leave(now)
	s.gone()
}

// fault lets go of a session that had ended when a fault of our own was found
// in it: nobody else would.
func (s *Session) fault(r Reason) {
	if r != InternalError || s.left {
		return
	}
	s.reason, s.detail = r, "had ended: "+s.reason.String()
	s.gone()
}

// Settle ends the session, whose sides have both ended with FIN. It stays in
// the listing until ours are acknowledged.
func (s *Session) Settle(now time.Duration) {
	if s.ended {
		return
	}
	s.Because(Finished, "")
	s.leave(now)
	s.Enter(Settling)
	if s.settled() {
		s.gone()
		return
	}
	for _, side := range [...]*Side{&s.Client, &s.Backend} {
		if side.Present() {
			side.Conn.Notify(nil) // the shard looks at many at once instead
		}
	}
	s.shard.settle(s, now)
}

// leave ends the session's active life.
func (s *Session) leave(now time.Duration) {
	s.ended, s.endedAt = true, now
	s.Disarm()
	s.server.unadmit()
}

// settled reports whether nothing more can be hoped for.
func (s *Session) settled() bool {
	_, client := s.Client.acked()
	_, backend := s.Backend.acked()
	return client && backend
}

// settleBy is when the last acknowledgement must be there, or never.
func (s *Session) settleBy() (time.Duration, bool) {
	if plan := s.Plan(); plan != nil {
		return max(s.endedAt, plan.Start) + plan.FinGrace, true
	}
	by, limited := time.Duration(0), false
	policy := &s.server.Settings().Policy
	for _, limit := range [...]time.Duration{policy.UserTimeout, policy.Linger} {
		if limit > 0 && (!limited || s.endedAt+limit < by) {
			by, limited = s.endedAt+limit, true
		}
	}
	return by, limited
}

// LingerBy is when the policy's linger resets a session that we finished at
// since, while a FIN of ours is not acknowledged.
func (s *Session) LingerBy(since time.Duration) (by time.Duration, waits bool) {
	limit := s.server.Settings().Policy.Linger
	if limit <= 0 || s.Client.lingered() && s.Backend.lingered() {
		return 0, false
	}
	return since + limit, true
}

// lost notes a side that died while an acknowledgement of our FIN was awaited.
func (s *Session) lost(side *Side) {
	acked, over := side.acked()
	if acked || !over {
		return
	}
	err := side.Conn.Established()
	if err == nil {
		err = syscall.ETIMEDOUT
	}
	cause, how := causeOf(err)
	side.died = how
	switch unexplained := how != ByRST && cause.client == ClientTimeout; {
	case unexplained:
		s.reason = FinUnacked
	case side == &s.Client:
		s.reason = cause.client
	default:
		s.reason = cause.backend
	}
	s.detail = "waiting for the acknowledgement of our FIN: " + err.Error()
}

// gone lets go of the connections and takes the session off the listing, even
// if one of the connections panics: a drain waits for every session.
func (s *Session) gone() {
	e := Ended{ID: s.id, Service: s.server.Name(), Policy: s.server.Settings().Service.Policy, Reason: s.reason, First: s.first, Outcome: Reset}
	defer func() {
		s.left = true
		s.shard.remove(s)
		s.server.left(e, s.Plan())
	}()
	defer s.released(&e)
	fault := s.reason == InternalError // ask the connections nothing that they may fail at again
	defer s.Backend.release(fault)
	defer s.Client.release(fault)
	e = s.record()
}

// released completes the record by what letting go of the connections did.
func (s *Session) released(e *Ended) {
	e.Client.let(&s.Client)
	e.Backend.let(&s.Backend)
	e.Outcome = outcome(e)
	if e.Reason == InternalError {
		s.server.log.Error("a connection is lost to a fault of the appliance", "id", e.ID, "client", e.ClientAddr, "backend", e.BackendAddr)
	}
}

// deaf reports whether a side never acknowledged our FIN, and had to be reset.
func (e *EndedSide) deaf() bool { return e.Present && e.Died == "" && e.FIN && !e.FinAcked && e.Reset }

// outcome judges an end.
func outcome(e *Ended) Outcome {
	switch {
	case (e.Client.Died == ByRST || e.Backend.Died == ByRST) && !(e.First.Who == "us" && (e.Client.deaf() || e.Backend.deaf())):
		return Clean // a peer wanted it so, and the other knows
	case e.Reason == FinUnacked:
		return Unacked
	case e.Client.Reset || e.Backend.Reset:
		return Reset
	case e.Client.Present && !e.Client.FinAcked || e.Backend.Present && !e.Backend.FinAcked:
		return Unacked
	}
	return Clean
}
