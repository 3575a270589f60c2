package services

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Quiet is for how long a draining session must have moved no byte to be
// closed: an answer that is under way usually takes less.
const Quiet = 100 * time.Millisecond

const (
	// handshakeGrace is how long a draining listener stays open at most for
	// handshakes that were under way: their last ACK is a round trip away.
	handshakeGrace = 250 * time.Millisecond
	// arrivingEvery is how often it is looked whether there are any. None twice in
	// a row is none: the last may have come just now, and wait to be accepted.
	arrivingEvery = 5 * time.Millisecond
)

// ErrNotDraining is the answer to Undrain of what does not drain.
var ErrNotDraining = errors.New("it does not drain")

// DrainingError is the answer to a drain of what drains already.
type DrainingError struct {
	What  string
	Since time.Time
	Left  time.Duration // until its deadline
}

// Error implements error.
func (e *DrainingError) Error() string {
	return fmt.Sprintf("%s drains already, since %s, and closes busy connections in %s: nothing is changed", e.What,
		e.Since.Local().Format(time.TimeOnly), max(e.Left, 0).Round(time.Second))
}

// Drain ends the service: see Service. What happens to the connections is up
// to their sessions, which are woken with ReadyDrain and look at the Plan.
func (s *Server) Drain(ctx context.Context, d config.Drain) Report {
	plan, first := s.lastPlan(d)
	if first && (s.phase.enter(Draining) || s.Phase() == Draining) {
		s.refuse(d.Refuse)
		s.wakeSessions(ReadyDrain)
		s.await(ctx, plan.Start+d.Min)
	}
	s.shut()
	s.phase.enter(Closed)
	return plan.result(s.loops.Now())
}

// lastPlan replaces a drain that goes on by the one that ends the service: what
// has ended stays in its account, and the earlier deadline holds.
func (s *Server) lastPlan(d config.Drain) (plan *Plan, first bool) {
	s.turning.Lock()
	defer s.turning.Unlock()
	old := s.plan.Load()
	if s.ending.Swap(true) && old != nil {
		return old, false
	}
	plan = s.newPlan(d, Target{Service: s.Name()}, "shutdown")
	if old != nil {
		plan.account, plan.Deadline = old.account, min(plan.Deadline, old.Deadline)
	} else {
		s.remember(plan)
	}
	s.plan.Store(plan)
	return plan, true
}

// refuse turns new connections away, wherever the service listens: what it has
// withdrawn from may be another's by now.
func (s *Server) refuse(how string) {
	for _, d := range s.listening() {
		s.network.Refuse(d.listener.Addr(), how)
	}
}

// await returns when no session is left and none can come, at the earliest at
// the time given, or Close is called.
func (s *Server) await(ctx context.Context, earliest time.Duration) {
	grace := time.NewTimer(max(handshakeGrace, earliest-s.loops.Now()))
	defer grace.Stop()
	tick := time.NewTicker(arrivingEvery)
	defer tick.Stop()
	arriving, hurry := true, ctx.Done()
	for none := 0; arriving || s.live.Load() > 0; {
		select {
		case <-s.idle:
		case <-tick.C:
			if none++; s.network.Arriving() {
				none = 0
			}
			if none < 2 || s.loops.Now() < earliest {
				continue
			}
			arriving = false
			tick.Stop()
		case <-grace.C:
			arriving = false
		case <-hurry:
			hurry = nil
			grace.Reset(handshakeGrace)
			s.hurry()
		case <-s.stopping:
			return
		}
	}
}

// hurry makes the deadline now.
func (s *Server) hurry() {
	plan := *s.plan.Load()
	plan.Deadline, plan.Spread = min(plan.Deadline, s.loops.Now()), 0
	s.plan.Store(&plan)
	s.wakeSessions(ReadyDrain)
}

// StartDrain is the part of Drain that can be taken back: new connections are
// refused and the others end, but the service stays.
func (s *Server) StartDrain(d config.Drain, cause string) error {
	s.turning.Lock()
	defer s.turning.Unlock()
	if old := s.plan.Load(); old != nil {
		return old.Again("service "+s.Name(), s.loops.Now())
	}
	plan := s.newPlan(d, Target{Service: s.Name()}, cause)
	s.plan.Store(plan)
	if !s.phase.enter(Draining) {
		s.plan.Store(nil)
		return fmt.Errorf("service %s is %s", s.Name(), s.Phase())
	}
	s.remember(plan)
	s.refuse(d.Refuse)
	s.wakeSessions(ReadyDrain)
	return nil
}

// Undrain takes new connections again. Connections that were told to end go on
// ending. It returns ErrNotDraining if there is nothing to take back.
func (s *Server) Undrain() error {
	s.turning.Lock()
	defer s.turning.Unlock()
	plan := s.plan.Load()
	if plan == nil || s.ending.Load() || !s.phase.resume() {
		return ErrNotDraining
	}
	s.plan.Store(nil)
	plan.takeBack(s.loops.Now())
	for _, d := range s.listening() {
		s.network.Admit(d.listener.Addr())
	}
	s.wakeSessions(ReadyDrain) // their timers may be those of the plan
	return nil
}

// DrainConn ends one connection as a drain would: when it is quiet, or at the
// deadline.
func (s *Server) DrainConn(id uint64, d config.Drain, cause string) error {
	session := s.session(id)
	plan := s.newPlan(d, Target{Service: s.Name(), Conn: id}, cause)
	if session == nil || session.own.Load() == handedOver {
		return s.carriage.drain(id, plan)
	}
	if !session.own.CompareAndSwap(nil, plan) {
		if session.own.Load() == handedOver {
			return s.carriage.drain(id, plan)
		}
		return plan.Again(fmt.Sprintf("connection %d", id), s.loops.Now())
	}
	s.remember(plan)
	session.Wake(ReadyDrain)
	return nil
}

// PlanFor makes the Plan of a drain of one backend. The service gives it to
// new sessions of the backend with Join, until it is taken back with TakeBack.
func (s *Server) PlanFor(backend netip.AddrPort, d config.Drain, cause string) *Plan {
	plan := s.newPlan(d, Target{Service: s.Name(), Backend: backend.String()}, cause)
	s.remember(plan)
	return plan
}

// Assign gives the plan to every session of the backend.
func (s *Server) Assign(plan *Plan, backend netip.AddrPort) {
	s.carriage.aimAt(aim{plan: plan, backend: backend})
	s.eachOf(backend, func(one *Session) { one.Join(plan) })
	s.carriage.Wake(ReadyDrain)
}

// TakeBack ends the plan of a backend's drain for sessions that it has not
// ended yet.
func (s *Server) TakeBack(plan *Plan, backend netip.AddrPort) {
	plan.takeBack(s.loops.Now())
	s.carriage.unaim(plan)
	s.eachOf(backend, func(one *Session) {
		if one.own.CompareAndSwap(plan, nil) {
			one.Wake(ReadyDrain)
		}
	})
}

// eachOf calls f for every session of a backend, with a lock held.
func (s *Server) eachOf(backend netip.AddrPort, f func(*Session)) {
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			if one.backend == backend {
				f(one)
			}
		}
		sh.mu.Unlock()
	}
}

// Drains lists the drains that go on and the last that are over, newest first.
func (s *Server) Drains() []DrainRow {
	rows := []DrainRow{}
	for _, p := range s.plans() {
		rows = append(rows, s.rowOf(p))
	}
	return rows
}

// DrainReports are the accounts of the same drains.
func (s *Server) DrainReports() []Report {
	now := s.loops.Now()
	var all []Report
	for _, p := range s.plans() {
		all = append(all, p.result(now))
	}
	return all
}

// plans are the remembered ones, newest first.
func (s *Server) plans() []*Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Plan, 0, len(s.drains))
	for i := len(s.drains) - 1; i >= 0; i-- {
		all = append(all, s.drains[i])
	}
	return all
}

// waitsFor reports whether handshakes may still bring the drain connections.
func (s *Server) waitsFor(p *Plan, now time.Duration) bool {
	return p.account.target.Backend == "" && p.account.target.Conn == 0 && now < p.Start+handshakeGrace
}

// leftOf counts the sessions that a drain waits for.
func (s *Server) leftOf(p *Plan) (n int) {
	whole := s.plan.Load()
	if whole != nil && whole.account == p.account {
		return int(s.live.Load())
	}
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			if own := one.own.Load(); own != nil && own.account == p.account {
				n++
			}
		}
		sh.mu.Unlock()
	}
	return n + s.carriage.leftOf(p)
}

func (s *Server) wakeSessions(r Ready) {
	for _, sh := range s.shards {
		sh.wakeAll(r)
	}
	s.carriage.Wake(r)
}

// Close resets every connection and stops listening.
func (s *Server) Close() {
	s.ending.Store(true)
	if s.phase.enter(Closed) {
		close(s.stopping)
		s.wakeSessions(ReadyStop)
	}
	s.shut()
}

// shut closes the doors and waits for the last session. The first caller does
// it, the others wait.
func (s *Server) shut() {
	s.shutOnce.Do(func() {
		s.CarryAll(tcpinfo.Relay)
		for _, d := range s.listening() {
			d.Wake(ReadyStop)
		}
		s.opened.Wait()
		for s.live.Load() > 0 {
			<-s.idle
		}
	})
}
