package services

import "time"

// Report is what a drain left. A service's has no Services, the supervisor's
// has one for each.
type Report struct {
	Service     string        `json:"service,omitempty"`
	Target      Target        `json:"target,omitzero"`
	Cause       string        `json:"cause,omitempty"` // "shutdown", "maintenance", ...
	Began       time.Time     `json:"began,omitzero"`
	Clean       int           `json:"clean"`   // ended with FINs acknowledged both ways, or by a peer's reset
	Reset       int           `json:"reset"`   // we had to reset
	Unacked     int           `json:"unacked"` // a FIN of ours stayed unacknowledged
	Took        time.Duration `json:"took_ns"`
	Connections []Ended       `json:"connections,omitempty"` // all that ended, in that order
	Omitted     int           `json:"omitted,omitempty"`     // counted above, too many for the list
	Rest        []Ended       `json:"-"`                     // those that didn't end clean
	Services    []Report      `json:"services,omitempty"`
}

// reportMost bounds the connections that a report lists: some 60 MB.
const reportMost = 65536

// add counts a connection that ended.
func (r *Report) add(e Ended) {
	if len(r.Connections) < reportMost {
		r.Connections = append(r.Connections, e)
	} else {
		r.Omitted++
	}
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
	r.Omitted += of.Omitted
	r.Rest = append(r.Rest, of.Rest...)
	r.Services = append(r.Services, of)
}
