package flow

import (
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// soonest finds which of several bounds comes first.
type soonest struct {
	due  uint32
	rule tcpinfo.Rule
	ok   bool
}

func (s *soonest) at(due uint32, rule tcpinfo.Rule) {
	if !s.ok || int32(due-s.due) < 0 {
		*s = soonest{due, rule, true}
	}
}

// after adds a bound; a limit of 0 or less is none.
func (s *soonest) after(since uint32, limit time.Duration, rule tcpinfo.Rule) {
	if limit > 0 {
		s.at(since+milliseconds(limit), rule)
	}
}

// carriedDeadline is what a leg's timer is for: the rule that ends the connection
// then, or Retransmit if there is something to send.
func (t *Table) carriedDeadline(f *Flow) (due uint32, rule tcpinfo.Rule, ok bool) {
	var s soonest
	switch {
	case f.over():
	case f.has(parted):
		s.at(f.partedBy(), tcpinfo.FinWait2)
		if f.has(finSent) && !f.has(finAcked) {
			s.at(t.repeatFIN(f), tcpinfo.Retransmit)
		}
	case f.state == SynSent:
		if o := t.ownerOf(f.owner()); o != nil {
			s.after(uint32(f.began/1e6), o.settings.ConnectTimeout, tcpinfo.ConnectTimeout)
		}
		s.after(uint32(f.began/1e6), handshake(t.policy(f.policy).Retransmit.SynRetries), tcpinfo.SynRetries)
	case f.state == SynReceived:
		if f.answered() { // else it waits for a backend, by no fault of its own
			s.after(f.synAckAt(), handshake(t.policy(f.policy).Retransmit.SynRetries), tcpinfo.SynRetries)
		}
	default:
		t.bounds(&s, f)
		if f.has(shut|turning) && f.isClientLeg() {
			if e, waits := t.ends.get(&f.key); waits {
				s.at(e.by, "")
				if e.still != 0 {
					s.after(e.still, answerPause, "")
				}
			}
		}
	}
	return s.due, s.rule, s.ok
}

// bounds are those of a synchronized leg.
func (t *Table) bounds(s *soonest, f *Flow) {
	rules := t.rules.Load()
	p := &rules.list[f.policy]
	if f.underWay() {
		since := f.progress
		if f.has(zeroWindow) && int32(f.lastHeard()-since) > 0 {
			since = f.lastHeard() // it answers: zero_window bounds that, with a byte of data in each probe too
		}
		s.after(since, p.UserTimeout, tcpinfo.UserTimeout)
		s.after(since, rules.giveUp[f.policy], tcpinfo.MaxRetries)
	} else if k := p.Keepalive; k.Enabled() {
		s.at(f.lastHeard()+milliseconds(k.Idle)+uint32(f.repeats)*milliseconds(k.Interval), tcpinfo.Keepalive)
	}
	if f.has(zeroWindow) && f.closedWnd != 0 {
		s.after(f.closedWnd, p.ZeroWindow, tcpinfo.ZeroWindow)
	}
	switch f.state {
	case FinWait1:
		s.after(f.progress, p.FinWait1, tcpinfo.FinWait1)
	case Closing:
		s.after(f.progress, p.Closing, tcpinfo.Closing)
	case LastAck:
		s.after(f.progress, p.LastAck, tcpinfo.LastAck)
	case CloseWait:
		s.after(f.progress, p.CloseWait, tcpinfo.CloseWait)
	}
	if f.isClientLeg() {
		return
	}
	// Of the whole connection. Whatever moves, moves on the backend's leg too.
	if f.has(peerFinSeen) != f.has(finSent) {
		if p.HalfClose > 0 {
			s.after(f.progress, p.HalfClose, tcpinfo.HalfClose)
		} else {
			s.after(f.progress, p.FinWait2, tcpinfo.FinWait2)
		}
	}
	if o := t.ownerOf(f.owner()); o != nil && !f.has(peerFinSeen|finSent) {
		s.after(f.progress, o.settings.IdleTimeout, tcpinfo.IdleTimeout)
	}
}

// peersRTO is the shortest retransmission timeout that a peer's stack is taken to
// have: Linux's TCP_RTO_MIN.
const peersRTO = 200 * time.Millisecond

// repetitions is how long it takes to send a segment again as often as a policy
// allows, after a timeout that doubles each time (RFC 6298, 5.5), and to wait for
// the last one: when a sender of ours would give up. 0 is no bound.
func repetitions(r config.Retransmit) (sum time.Duration) {
	if r.MaxRetries <= 0 {
		return 0
	}
	most := r.MaxRTO
	if most <= 0 {
		most = 2 * time.Minute
	}
	rto := max(r.MinRTO, peersRTO)
	for range r.MaxRetries + 1 {
		sum += min(rto, most)
		rto = min(2*rto, most)
	}
	return sum
}

// due does what a leg's timer is for.
func (t *Table) due(k *key) {
	p, ok := t.lockPair(k)
	if !ok {
		t.tryAgain(k)
		return
	}
	now := t.now()
	due, rule, ok := t.carriedDeadline(p.f)
	switch {
	case !ok:
	case int32(due-now.ms) > 0:
		p.rearm(p.f, now)
	default:
		p.fire(rule, now)
	}
	p.unlock()
	p.speak()
}

func (p *pairing) fire(rule tcpinfo.Rule, now instant) {
	f := p.f
	policy := p.t.policy(f.policy)
	switch rule {
	case "":
		p.impatient(now)
	case tcpinfo.Retransmit:
		a := f.answer(now)
		a.seq, a.fin = f.finSeq, true
		p.say(f, a, now)
		p.rearm(f, now)
	case tcpinfo.Keepalive:
		if int(f.repeats) < policy.Keepalive.Probes {
			f.repeats++
			a := f.answer(now)
			a.seq = f.sndUna - 1
			p.says = append(p.says, f.word(a))
			p.rearm(f, now)
			return
		}
		p.dies(p.f, rule, now)
	case tcpinfo.ConnectTimeout, tcpinfo.SynRetries:
		if f.has(dialled) {
			p.failed(rule, now)
			return
		}
		p.dies(p.f, rule, now)
	case tcpinfo.IdleTimeout:
		how := "fin"
		if policy.AbortiveClose {
			how = "rst" // linger: 0s
		}
		p.endBy(tcpinfo.CarriedEnd{How: how, Why: rule, Patience: time.Second, Grace: graceOf(policy.FinWait2)}, now)
	default:
		p.dies(p.f, rule, now)
	}
}

// graceOf is how long a peer has to answer our FIN outside of a drain.
func graceOf(finWait2 time.Duration) time.Duration {
	if finWait2 > 0 {
		return finWait2
	}
	return 24 * time.Hour
}

// dies gives up a leg's peer by a rule, and so the connection.
func (p *pairing) dies(f *Flow, rule tcpinfo.Rule, now instant) {
	p.t.Count.Limited.Add(1)
	if !f.has(parted) {
		f.endedBy = ruleNumber(rule)
	}
	p.resetBoth(now)
}
