package services

import (
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Bound names what a session's service will end it by, in the words of the
// configuration.
type Bound uint64

// The bounds of a session. Those of its connections are in their Info.
const (
	NoBound Bound = iota
	BoundConnect
	BoundIdle
	BoundHalfClose
	BoundFinWait2
	BoundLinger

	boundBits = 3
)

var boundNames = [...]tcpinfo.Rule{"", "connect_timeout", "idle_timeout", "half_close", "fin_wait2", "linger"}

const boundSlides Bound = 1 << boundBits

// EndsAt notes for listings that the session ends at a time of the loop.
func (s *Session) EndsAt(b Bound, at time.Duration) {
	s.bound.Store(uint64(at)<<(boundBits+1) | uint64(b))
}

// EndsQuiet notes that it ends once no byte has moved for limit; 0 or less is
// never.
func (s *Session) EndsQuiet(b Bound, limit time.Duration) {
	if limit <= 0 {
		s.bound.Store(0)
		return
	}
	s.EndsAt(b|boundSlides, limit)
}

// timers are those of the service that run on the session.
func (s *Session) timers(now time.Duration) (all []tcpinfo.Timer) {
	x := s.bound.Load()
	if b := Bound(x) & (boundSlides - 1); b != NoBound {
		at := time.Duration(x >> (boundBits + 1))
		if Bound(x)&boundSlides != 0 {
			at += s.Moved()
		}
		all = append(all, tcpinfo.Timer{Name: boundNames[b], Left: max(at-now, 0)})
	}
	if plan := s.Plan(); plan != nil && s.Stage() < Closing {
		all = append(all, tcpinfo.Timer{Name: "drain", Left: max(plan.Deadline-now, 0)})
	}
	return all
}
