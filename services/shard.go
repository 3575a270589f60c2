package services

import (
	"sync"
	"time"
)

// shard holds a Server's sessions on one Loop. The lock is taken when a
// session comes and goes and for listings, never for events.
type shard struct {
	Task   // looks after those that settle
	server *Server

	mu    sync.Mutex // guards the list, Session.Backend.Conn's changes and Session.backend
	first *Session

	settling *Session // owned by the loop, as are the next two
	todo     *Session // of a run: not looked at yet
	looking  *Session // of a run: the one being looked at
}

const (
	// settleEvery is how often acknowledgements of our FINs are looked for:
	// nothing tells, and nobody waits for it. While draining somebody does.
	settleEvery      = 100 * time.Millisecond
	settleEveryDrain = tick
)

func (sh *shard) add(s *Session) {
	sh.mu.Lock()
	s.next = sh.first
	if s.next != nil {
		s.next.prev = s
	}
	sh.first = s
	sh.mu.Unlock()
}

func (sh *shard) remove(s *Session) {
	sh.mu.Lock()
	if s.next != nil {
		s.next.prev = s.prev
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		sh.first = s.next
	}
	sh.mu.Unlock()
}

// wakeAll wakes every session.
func (sh *shard) wakeAll(r Ready) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.first; s != nil; s = s.next {
		s.Wake(r)
	}
	sh.Wake(r)
}

// settle takes s until its FINs are acknowledged.
func (sh *shard) settle(s *Session, now time.Duration) {
	s.settling, sh.settling = sh.settling, s
	sh.ArmBy(now + sh.every())
}

func (sh *shard) every() time.Duration {
	if sh.server.plan.Load() != nil {
		return settleEveryDrain
	}
	return settleEvery
}

// Run looks at those that settle.
func (sh *shard) Run(now time.Duration, ready Ready) {
	sh.todo, sh.settling = sh.settling, nil
	for sh.todo != nil {
		s := sh.todo
		sh.todo, s.settling = s.settling, nil
		sh.looking = s
		if !sh.finish(s, now, ready) {
			s.settling, sh.settling = sh.settling, s
		}
	}
	sh.looking = nil
	if sh.settling != nil {
		sh.ArmBy(now + sh.every())
	}
}

// finish lets s go if it has settled, or must.
func (sh *shard) finish(s *Session, now time.Duration, ready Ready) bool {
	by, limited := s.settleBy()
	switch {
	case s.settled():
		s.lost(&s.Client)
		s.lost(&s.Backend)
	case ready&ReadyStop != 0, limited && now >= by:
		s.reason, s.detail = FinUnacked, "had ended: "+s.reason.String()
	default:
		return false
	}
	s.gone()
	return true
}

// Panicked gives up the session that was looked at and goes on with the others.
func (sh *shard) Panicked(now time.Duration) {
	for sh.todo != nil {
		s := sh.todo
		sh.todo = s.settling
		s.settling, sh.settling = sh.settling, s
	}
	sh.ArmBy(now + settleEvery)
	s := sh.looking
	if sh.looking = nil; s != nil {
		s.fault(InternalError)
	}
}
