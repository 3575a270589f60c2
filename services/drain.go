package services

import (
	"context"
	"time"

	"github.com/lastack/lastack/config"
)

// Plan says how a server drains, in loop time.
type Plan struct {
	Start    time.Duration
	Deadline time.Duration // busy sessions are closed now
	FinGrace time.Duration // how long a peer has to answer our FIN
}

// Quiet is for how long a draining session must have moved no byte to be
// closed: an answer that is under way usually takes less.
const Quiet = 100 * time.Millisecond

// handshakeGrace is how long a draining listener stays open for handshakes
// that were under way: their last ACK is a round trip away.
const handshakeGrace = 250 * time.Millisecond

// Drain ends the service: see Service. What happens to the connections is up
// to their sessions, which are woken with ReadyDrain and look at the Plan.
func (s *Server) Drain(ctx context.Context, d config.Drain) Report {
	start := s.loops.Now()
	s.plan.CompareAndSwap(nil, &Plan{Start: start, Deadline: start + max(0, d.Deadline), FinGrace: d.FinGrace})
	if s.phase.enter(Draining) {
		for _, addr := range s.Addrs() {
			s.network.Refuse(addr, d.Refuse)
		}
		s.wakeSessions(ReadyDrain)
		s.await(ctx)
	}
	s.shut()
	s.phase.enter(Closed)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Service, s.report.Took = s.Name(), s.loops.Now()-start
	return s.report
}

// await returns when no session is left and none can come, or Close is called.
func (s *Server) await(ctx context.Context) {
	grace := time.NewTimer(handshakeGrace)
	defer grace.Stop()
	arriving, hurry := true, ctx.Done()
	for arriving || s.live.Load() > 0 {
		select {
		case <-s.idle:
		case <-grace.C:
			arriving = false
		case <-hurry:
			hurry = nil
			s.hurry()
		case <-s.stopping:
			return
		}
	}
}

// hurry makes the deadline now.
func (s *Server) hurry() {
	plan := *s.plan.Load()
	plan.Deadline = min(plan.Deadline, s.loops.Now())
	s.plan.Store(&plan)
	s.wakeSessions(ReadyDrain)
}

func (s *Server) wakeSessions(r Ready) {
	for _, sh := range s.shards {
		sh.wakeAll(r)
	}
}

// Close resets every connection and stops listening.
func (s *Server) Close() {
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
		for _, d := range s.doors {
			d.Wake(ReadyStop)
		}
		s.opened.Wait()
		for s.live.Load() > 0 {
			<-s.idle
		}
	})
}
