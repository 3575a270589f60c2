package config

import "time"

// judgeTimes looks at how the times of a policy go together: what cannot have
// been meant is refused, what is risky gets a warning. What a policy inherits
// unchanged was judged where it was written.
func (p *parser) judgeTimes(v value, d policyDraft) {
	p.judgeRetransmit(v, d)
	for _, limit := range [...]struct {
		key  string
		span time.Duration
	}{{"fin_wait1", d.FinWait1}, {"closing", d.Closing}, {"last_ack", d.LastAck}} {
		if at, set := d.found[limit.key]; set && limit.span > 0 && limit.span < d.Retransmit.MinRTO {
			p.warn(at.pos(), at.path, "less than min_rto "+formatDuration(d.Retransmit.MinRTO)+
				": our FIN is never repeated, so one lost segment resets the connection")
		}
	}
}

// judgeRetransmit refuses to repeat a segment for longer than a day.
func (p *parser) judgeRetransmit(v value, d policyDraft) {
	at, set := d.found["retransmit"]
	if !set {
		at = v
		if _, set = d.found["user_timeout"]; !set {
			return
		}
	}
	if total := d.Retransmit.total(); total > day && d.UserTimeout < 0 {
		at.fail("a vanished peer with data in flight would be noticed after "+formatDuration(total.Round(time.Minute))+
			" (max_retries repetitions up to max_rto apart), and user_timeout is off", "at most "+formatDuration(day))
	}
}

// total is the longest that an unanswered segment is repeated, if the
// retransmission timeout begins at its minimum and doubles (RFC 6298, 5.5).
func (r Retransmit) total() time.Duration {
	var sum time.Duration
	rto := r.MinRTO
	for range r.MaxRetries + 1 {
		sum += rto
		rto = min(2*rto, r.MaxRTO)
	}
	return sum
}
