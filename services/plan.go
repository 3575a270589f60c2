package services

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
)

// Plan says how sessions drain, in loop time, and keeps the account of those
// that end under it. It is of a service, of one of its backends or of one
// session; what is said of times does not change.
type Plan struct {
	Start      time.Duration
	Deadline   time.Duration // busy sessions are closed now
	FinGrace   time.Duration // how long a peer has to answer our FIN
	LingerRead time.Duration // how long after our FIN the peer's bytes are read and dropped
	Spread     time.Duration // closes are spread over this time
	refuse     string        // how new connections are turned away
	account    *account
}

// Turn is when a session may be closed if it is quiet, and when it is closed
// anyway: all at once would have all clients come back at once. id chooses its
// place in the spread, so that asking again gives the same.
func (p *Plan) Turn(id uint64) (quiet, deadline time.Duration) {
	if p.Spread <= 0 {
		return p.Start, p.Deadline
	}
	id = (id ^ id>>31) * 0x9e3779b97f4a7c15 // consecutive numbers become far ones
	at := time.Duration((id >> 20) % uint64(p.Spread))
	return p.Start + at, max(p.Deadline-p.Spread+at, p.Start)
}

// account is what a drain has done so far. It outlives the Plan.
type account struct {
	target  Target
	cause   string
	began   time.Time
	start   time.Duration
	minimum time.Duration

	mu      sync.Mutex // guards all below
	report  Report
	last    time.Duration // loop time of the last end
	over    time.Duration // loop time when it was found done, or taken back; 0 while it runs
	takenUp bool          // by Undrain
}

// Target names what drains.
type Target struct {
	Service string `json:"service"`
	Backend string `json:"backend,omitempty"` // "" is the whole service
	Conn    uint64 `json:"conn,omitempty"`    // one connection
}

// Name is how an operator names it, but for a connection, which is "connection 7".
func (t Target) Name() string {
	switch {
	case t.Conn != 0:
		return fmt.Sprintf("connection %d", t.Conn)
	case t.Backend != "":
		return t.Service + "/" + t.Backend
	}
	return t.Service
}

// DrainRow describes a drain that goes on or is over.
type DrainRow struct {
	Target
	Cause   string        `json:"cause"`
	Began   time.Time     `json:"began"`
	State   string        `json:"state"`       // "draining", "drained", "undrained"
	Left    int           `json:"left"`        // connections that have not ended
	Clean   int           `json:"clean"`       // see Report
	Reset   int           `json:"reset"`       //
	Unacked int           `json:"unacked"`     //
	Closes  time.Duration `json:"deadline_ns"` // until busy connections are closed; 0 once it has passed
	Took    time.Duration `json:"took_ns"`     // so far
}

// keptDrains is how many drains a service remembers, and more if more go on.
const keptDrains = 16

func (s *Server) newPlan(d config.Drain, t Target, cause string) *Plan {
	now := s.loops.Now()
	grace := d.FinGrace
	deadline := max(0, d.Deadline)
	if d.Max > 0 {
		deadline = min(deadline, max(0, d.Max-grace))
	}
	linger := d.LingerRead
	if linger <= 0 {
		linger = grace
	}
	return &Plan{
		Start: now, Deadline: now + deadline, FinGrace: grace, LingerRead: linger, Spread: min(d.Spread, deadline), refuse: d.Refuse,
		account: &account{target: t, cause: cause, began: s.loops.epoch.Add(now), start: now, minimum: d.Min},
	}
}

// remember keeps a drain for listings.
func (s *Server) remember(p *Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drains = append(s.drains, p)
	for i := 0; i < len(s.drains) && len(s.drains) > keptDrains; {
		if s.rowOf(s.drains[i]).State == "draining" {
			i++
			continue
		}
		s.drains = slices.Delete(s.drains, i, i+1)
	}
}

// rowOf describes a drain as it is now.
func (s *Server) rowOf(p *Plan) DrainRow {
	now := s.loops.Now()
	return p.row(now, s.leftOf(p), s.waitsFor(p, now))
}

// ended adds a connection to the account.
func (a *account) ended(e Ended, now time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.report.add(e)
	a.last = now
}

// row describes the drain; left are the connections that have not ended.
func (p *Plan) row(now time.Duration, left int, waits bool) DrainRow {
	a := p.account
	a.mu.Lock()
	defer a.mu.Unlock()
	r := DrainRow{
		Target: a.target, Cause: a.cause, Began: a.began, State: "draining", Left: left,
		Clean: a.report.Clean, Reset: a.report.Reset, Unacked: a.report.Unacked,
		Closes: max(p.Deadline-now, 0), Took: now - a.start,
	}
	if a.over == 0 && left == 0 && !waits && now >= a.start+a.minimum {
		a.over = max(a.last, a.start+a.minimum)
	}
	if a.over != 0 {
		r.State, r.Took, r.Left, r.Closes = "drained", a.over-a.start, 0, 0
	}
	if a.takenUp {
		r.State = "undrained"
	}
	return r
}

// Again is the answer to a drain of what drains by this plan already.
func (p *Plan) Again(what string, now time.Duration) error {
	return &DrainingError{what, p.account.began, p.Deadline - now}
}

// takeBack marks the drain as taken back.
func (p *Plan) takeBack(now time.Duration) {
	a := p.account
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takenUp, a.over = true, now
}

// taken reports whether the drain was taken back.
func (p *Plan) taken() bool {
	p.account.mu.Lock()
	defer p.account.mu.Unlock()
	return p.account.takenUp
}

// result is the report so far.
func (p *Plan) result(now time.Duration) Report {
	a := p.account
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.report
	r.Target, r.Cause, r.Began, r.Service = a.target, a.cause, a.began, a.target.Service
	r.Took = now - a.start
	if a.over != 0 {
		r.Took = a.over - a.start
	}
	r.Connections, r.Rest = slices.Clone(r.Connections), slices.Clone(r.Rest)
	return r
}
