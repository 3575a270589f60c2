package services

import "time"

// Report is what a drain left. A service's has no Services, the supervisor's
// has one for each.
type Report struct {
	Service  string        `json:"service,omitempty"`
	Clean    int           `json:"clean"`   // ended with FINs acknowledged both ways, or by a peer's reset
	Reset    int           `json:"reset"`   // we had to reset
	Unacked  int           `json:"unacked"` // a FIN of ours stayed unacknowledged
	Took     time.Duration `json:"took_ns"`
	Rest     []Ended       `json:"rest,omitempty"` // those that didn't end clean
	Services []Report      `json:"services,omitempty"`
}

// add counts a connection that ended.
func (r *Report) add(e Ended) {
	switch e.Outcome {
	case Clean:
		r.Clean++
		return
	case Reset:
		r.Reset++
	case Unacked:
		r.Unacked++
	}
	r.Rest = append(r.Rest, e)
}

// include adds a service's report.
func (r *Report) include(of Report) {
	r.Clean += of.Clean
	r.Reset += of.Reset
	r.Unacked += of.Unacked
	r.Rest = append(r.Rest, of.Rest...)
	r.Services = append(r.Services, of)
}

// account adds an end to the drain's report.
func (s *Server) account(e Ended) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.add(e)
}
