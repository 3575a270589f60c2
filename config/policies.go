package config

import (
	"fmt"
	"strings"
	"time"
)

const (
	maxName       = 63
	maxRetries    = 255 // tcp(7), tcp_retries2; with exponential backoff 15 take 20 minutes already
	maxSynRetries = 6   // given up after 127 s, which is when gVisor does; Linux's default (net.ipv4.tcp_syn_retries)
	maxProbes     = 255
	maxRTO        = 10 * time.Minute
	maxTimeWait   = time.Hour
	maxTimeWaits  = 1 << 24 // 4 GiB of flows
	manyTimeWaits = 1 << 20 // from where on memory is worth a word: 256 MB
)

// policyDraft is a policy while its inheritance is still open: a user timeout
// of zero follows from the keepalive.
type policyDraft struct {
	Policy
	found map[string]value
}

// policies decodes the section. Every policy starts as a copy of "default",
// which itself starts as the built-in one, wherever it stands in the file.
func (p *parser) policies(v value) map[string]Policy {
	base := policyDraft{Policy: DefaultPolicy()}
	base.UserTimeout = 0
	all := map[string]Policy{}
	var entries []value
	if v.present() {
		entries = v.entries("a mapping from policy names to their rules")
	}
	for _, entry := range entries {
		if entry.name.Value == defaultName {
			base = p.policy(entry, base.Policy)
		}
	}
	all[defaultName] = base.finished()
	for _, entry := range entries {
		if entry.name.Value != defaultName {
			all[entry.name.Value] = p.policy(entry, base.Policy).finished()
		}
	}
	return all
}

// finished settles what follows from the rest.
func (d policyDraft) finished() Policy {
	if d.UserTimeout == 0 {
		d.UserTimeout = d.Keepalive.Total()
	}
	return d.Policy
}

// policy decodes one policy over the one it inherits from.
func (p *parser) policy(v value, base Policy) policyDraft {
	d := policyDraft{Policy: base}
	d.Name, d.Pos = v.name.Value, v.namePos()
	before := len(p.errs)
	v.checkName("policy")
	d.found = v.mapping(
		field{"keepalive", func(v value) { v.keepalive(&d.Keepalive) }},
		field{"retransmit", func(v value) { v.retransmit(&d.Retransmit) }},
		field{"user_timeout", func(v value) { v.durationOrOff(&d.UserTimeout) }},
		field{"half_close", func(v value) { v.durationOrOff(&d.HalfClose) }},
		field{"fin_wait2", func(v value) { v.durationOrOff(&d.FinWait2) }},
		field{"time_wait", func(v value) { v.timeWait(&d.TimeWait) }},
		field{"fin_wait1", func(v value) { v.durationOrOff(&d.FinWait1) }},
		field{"closing", func(v value) { v.durationOrOff(&d.Closing) }},
		field{"last_ack", func(v value) { v.durationOrOff(&d.LastAck) }},
		field{"close_wait", func(v value) { v.durationOrOff(&d.CloseWait) }},
		field{"zero_window", func(v value) { v.durationOrOff(&d.ZeroWindow) }},
		field{"linger", func(v value) { v.linger(&d.Policy) }},
		field{"dscp", func(v value) { v.integer(&d.DSCP, 0, 63) }},
		field{"ttl", func(v value) { v.integer(&d.TTL, 1, 255) }},
		field{"congestion", func(v value) { v.oneOf(&d.Congestion, "cubic", "reno") }},
	)
	p.doubtUserTimeout(v, d)
	if len(p.errs) == before {
		p.judgeTimes(v, d)
	}
	return d
}

// doubtUserTimeout warns where the user timeout ends the probing early.
func (p *parser) doubtUserTimeout(v value, d policyDraft) {
	at, set := d.found["user_timeout"]
	if !set {
		at = v
		if _, set = d.found["keepalive"]; !set {
			return // inherited as it is: said where it was written
		}
	}
	total := d.Keepalive.Total()
	if d.UserTimeout > 0 && d.Keepalive.Enabled() && d.UserTimeout <= d.Keepalive.Interval {
		at.failf("user_timeout %s is not above the keepalive interval %s: a peer would be given up before it can answer one probe",
			formatDuration(d.UserTimeout), formatDuration(d.Keepalive.Interval))
		return
	}
	if d.UserTimeout > 0 && total > 0 && d.UserTimeout < total {
		p.warn(at.namePos(), at.path, "user_timeout "+formatDuration(d.UserTimeout)+" is less than the "+formatDuration(total)+
			" of keepalive (idle + interval * probes): with data outstanding, a peer is given up before the last probe")
	}
}

// checkName reports a name that would be hard to type or to log.
func (v value) checkName(what string) {
	name := v.name.Value
	odd := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", r)
	}
	if len(name) > maxName || strings.ContainsFunc(name, odd) {
		v.p.fail(v.namePos(), v.path, quote(name)+" is no name for a "+what, "up to 63 letters, digits and _ . -")
	}
}

func (v value) keepalive(k *Keepalive) {
	if v.off() {
		*k = Keepalive{Idle: Off, Interval: Off, Probes: -1}
		return
	}
	if !k.Enabled() { // inherited as off, and turned on again
		*k = defaultKeepalive()
	}
	before := len(v.p.errs)
	v.mapping(
		field{"idle", func(v value) { v.duration(&k.Idle, shortest, day) }},
		field{"interval", func(v value) { v.duration(&k.Interval, shortest, day) }},
		field{"probes", func(v value) { v.integer(&k.Probes, 1, maxProbes) }},
	)
	if total := k.Total(); total > day && len(v.p.errs) == before {
		v.failf("a vanished peer would be noticed after %s (idle + interval * probes); that must not exceed %s", formatDuration(total), formatDuration(day))
	}
}

// linger decodes SO_LINGER's three meanings.
func (v value) linger(d *Policy) {
	d.AbortiveClose = false
	if v.off() {
		d.Linger = Off
		return
	}
	before := len(v.p.errs)
	v.duration(&d.Linger, 0, day)
	if d.Linger == 0 && len(v.p.errs) == before {
		d.Linger, d.AbortiveClose = Off, true
		v.p.warn(v.pos(), v.path, "0s resets a connection that we end (idle_timeout, drain, conn kill): data under way is lost, and the peer's application sees an error")
	}
}

func (v value) retransmit(r *Retransmit) {
	before := len(v.p.errs)
	found := v.mapping(
		field{"min_rto", func(v value) { v.duration(&r.MinRTO, shortest, maxRTO) }},
		field{"max_rto", func(v value) { v.duration(&r.MaxRTO, shortest, maxRTO) }},
		field{"max_retries", func(v value) { v.integer(&r.MaxRetries, 1, maxRetries) }},
		field{"syn_retries", func(v value) { v.integer(&r.SynRetries, 1, maxSynRetries) }},
		field{"loss_detection", func(v value) { v.oneOf(&r.LossDetection, "sack", "rack") }},
	)
	at, set := found["min_rto"]
	if !set {
		at, set = found["max_rto"]
	}
	if set && len(v.p.errs) == before && r.MinRTO > r.MaxRTO {
		at.failf("min_rto %s is greater than max_rto %s", formatDuration(r.MinRTO), formatDuration(r.MaxRTO))
	}
}

// timeWait decodes TIME_WAIT. Doing without it needs a second key, since it is
// what keeps a stray segment of an old connection out of a new one.
func (v value) timeWait(t *TimeWait) {
	if v.off() {
		v.failf("cannot be turned off; write {duration: 0s, accept_stray_segments: true} if the network really needs no TIME_WAIT")
		return
	}
	duration, accept := t.Duration, t.Duration < 0
	before := len(v.p.errs)
	found := v.mapping(
		field{"duration", func(v value) { v.duration(&duration, 0, maxTimeWait) }},
		field{"reuse", func(v value) { v.oneOf(&t.Reuse, "newer-syn", "never") }},
		field{"max", func(v value) { v.integer(&t.Max, 1, maxTimeWaits) }},
		field{"accept_stray_segments", func(v value) { v.boolean(&accept) }},
	)
	if len(v.p.errs) > before {
		return
	}
	at, ok := found["duration"]
	if !ok {
		at = v
	}
	switch _, acked := found["accept_stray_segments"]; {
	case duration <= 0 && !accept:
		at.failf("0s does without TIME_WAIT: a lost last ACK is answered with RST and a stray segment may enter a new connection (RFC 1337); confirm with accept_stray_segments: true")
		return
	case duration > 0 && accept && acked:
		found["accept_stray_segments"].failf("goes only with duration: 0s; remove it")
		return
	case duration <= 0:
		duration = Off
	}
	t.Duration = duration
	if most, set := found["max"]; set && t.Max > manyTimeWaits {
		v.p.warn(most.pos(), most.path, fmt.Sprintf("%d entries take up to %d MB", t.Max, t.Max/4096))
	}
	if _, set := found["duration"]; set && duration < defaultTimeWait {
		v.p.warn(at.pos(), at.path, "less than "+formatDuration(defaultTimeWait)+": a peer that repeats its last FIN later gets RST, and old segments may still be under way; clients behind one NAT use the same ports again soon, and theirs may enter a new connection")
	}
}
