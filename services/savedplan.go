package services

import (
	"slices"
	"time"
)

// SavedPlan is a drain that goes on or is remembered, in the loops' time.
type SavedPlan struct {
	Target     Target        `json:"target"`
	Cause      string        `json:"cause"`
	Began      time.Time     `json:"began"`
	Start      time.Duration `json:"start"`
	Deadline   time.Duration `json:"deadline"`
	FinGrace   time.Duration `json:"fin_grace"`
	LingerRead time.Duration `json:"linger_read"`
	Spread     time.Duration `json:"spread"`
	Min        time.Duration `json:"min"`
	Refuse     string        `json:"refuse"`
	Last       time.Duration `json:"last"`
	Over       time.Duration `json:"over"`
	TakenUp    bool          `json:"taken_up"`
	Report     Report        `json:"report"`
}

// savedConnections bounds what goes over of a drain's list of connections: it is
// written while everything rests.
const savedConnections = 4096

// save describes a plan with its account.
func (p *Plan) save() SavedPlan {
	a := p.account
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.report
	if more := len(r.Connections) - savedConnections; more > 0 {
		r.Omitted += more
		r.Connections = r.Connections[:savedConnections]
	}
	r.Connections = slices.Clone(r.Connections)
	return SavedPlan{
		Target: a.target, Cause: a.cause, Began: a.began, Start: p.Start, Deadline: p.Deadline, FinGrace: p.FinGrace,
		LingerRead: p.LingerRead, Spread: p.Spread, Min: a.minimum, Refuse: p.refuse,
		Last: a.last, Over: a.over, TakenUp: a.takenUp, Report: r,
	}
}

// plan makes it again.
func (v *SavedPlan) plan() *Plan {
	a := &account{
		target: v.Target, cause: v.Cause, began: v.Began, start: v.Start, minimum: v.Min,
		report: v.Report, last: v.Last, over: v.Over, takenUp: v.TakenUp,
	}
	for _, e := range a.report.Connections {
		if e.Outcome != Clean {
			a.report.Rest = append(a.report.Rest, e)
		}
	}
	return &Plan{
		Start: v.Start, Deadline: v.Deadline, FinGrace: v.FinGrace, LingerRead: v.LingerRead, Spread: v.Spread,
		refuse: v.Refuse, account: a,
	}
}

// Keep adds a plan to what is saved, if it is not there yet, and returns its
// place: 0 is none. Recall finds it by that.
func (s *Saved) Keep(p *Plan) int {
	if p == nil {
		return 0
	}
	if i := slices.Index(s.plans, p); i >= 0 {
		return i + 1
	}
	s.plans = append(s.plans, p)
	s.Plans = append(s.Plans, p.save())
	return len(s.plans)
}

// Recall is the plan at a place, made again; nil for 0 and for a place that there
// is not.
func (s *Saved) Recall(place int) *Plan {
	if place < 1 || place > len(s.Plans) {
		return nil
	}
	if s.plans == nil {
		for i := range s.Plans {
			s.plans = append(s.plans, s.Plans[i].plan())
		}
	}
	return s.plans[place-1]
}
