package config

import (
	"fmt"
	"time"
)

// judgeTimes looks at how the times of a policy go together: what cannot have
// been meant is refused, what is risky gets a warning. What a policy inherits
// unchanged was judged where it was written.
func (p *parser) judgeTimes(v value, d policyDraft) {
	p.judgeUserTimeout(v, d)
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
	if at, set := d.found["linger"]; set && d.Linger == 0 {
		p.warn(at.pos(), at.path, "0s is an abortive close: where the appliance ends a connection it sends RST instead of FIN, "+
			"and what the peer has not read yet is lost; a peer's own FIN still passes on as FIN")
	}
}

// judgeUserTimeout refuses a user timeout that would leave no time for a single
// probe, and warns where it ends the probing early.
func (p *parser) judgeUserTimeout(v value, d policyDraft) {
	at, set := d.found["user_timeout"]
	if !set {
		at = v
		if _, set = d.found["keepalive"]; !set {
			return
		}
	}
	total := d.Keepalive.Total()
	switch {
	case d.UserTimeout <= 0 || total <= 0 || d.UserTimeout >= total:
	case d.UserTimeout < d.Keepalive.Interval:
		p.fail(at.namePos(), at.path, fmt.Sprintf("user_timeout %s is less than one keepalive interval of %s: a peer would be given up before it can answer a probe",
			formatDuration(d.UserTimeout), formatDuration(d.Keepalive.Interval)),
			"user_timeout from keepalive.interval, better from "+formatDuration(total)+" (idle + interval * probes), or off")
	default:
		p.warn(at.namePos(), at.path, "user_timeout "+formatDuration(d.UserTimeout)+" is less than the "+formatDuration(total)+
			" of keepalive (idle + interval * probes): with data outstanding, a peer is given up before the last probe")
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

// linger decodes SO_LINGER: off, or from 0s on.
func (v value) linger(dst *time.Duration) {
	if v.off() {
		*dst = Off
		return
	}
	v.limited(dst, 0, day, "0s to "+formatDuration(day)+", or off")
}

// manyTimeWaits is from where on the entries of TIME_WAIT are worth a word
// about memory: 256 MB.
const manyTimeWaits = 1 << 20

// doubtTimeWait warns of what a short TIME_WAIT and a long list may do.
func (v value) doubtTimeWait(t TimeWait, found map[string]value) {
	if most, set := found["max"]; set && t.Max > manyTimeWaits {
		v.p.warn(most.pos(), most.path, fmt.Sprintf("%d entries take up to %d MB", t.Max, t.Max/4096))
	}
	at, set := found["duration"]
	if !set || t.Duration >= defaultTimeWait {
		return
	}
	v.p.warn(at.pos(), at.path, "less than "+formatDuration(defaultTimeWait)+": a peer that repeats its last FIN later gets RST, and where clients come "+
		"from behind NAT, a port is soon another client's: a late segment of the old connection may enter the new one")
}
