package predict

import (
	"math"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Schedule is the end of a peer that no longer answers.
type Schedule struct {
	Repeats []time.Duration `json:"repeats_ns"` // when, from the first transmission on, a segment is sent again
	GiveUp  time.Duration   `json:"give_up_ns"` // when the connection ends; negative: never
	Rule    tcpinfo.Rule    `json:"rule"`       // the key of the policy that ends it; "" for never
}

const (
	// firstRTO is the retransmission timeout before a round trip was measured (RFC 6298, 2.1).
	firstRTO = time.Second
	// delayedACK is what a tail loss probe allows a lone segment's ACK (RFC 8985, 7.2: WCDelAckT).
	delayedACK = 200 * time.Millisecond
	forever    = time.Duration(-1)
)

// RTO is the retransmission timeout of a connection with that round-trip
// time, steady; 0 is a connection that has not measured one.
func RTO(r config.Retransmit, rtt time.Duration) time.Duration {
	rto := firstRTO
	if rtt > 0 {
		rto = rtt // its variance has gone to nothing
	}
	return min(max(rto, r.MinRTO), r.MaxRTO)
}

// Data is the schedule of one segment with data whose peer has vanished. The
// timeout doubles with each repetition up to max_rto (RFC 6298, 5.5). With
// RACK the first is a tail loss probe, which doubles nothing.
func Data(p config.Policy, rtt time.Duration) Schedule {
	var s Schedule
	rto := RTO(p.Retransmit, rtt)
	now, first, sent := rto, time.Duration(0), 1
	if p.Retransmit.LossDetection == "rack" {
		probe := firstRTO
		if rtt > 0 {
			probe = 2*rtt + delayedACK
		}
		now = min(probe, rto)
		s.Repeats, first, sent = append(s.Repeats, now), now, 2
		now += rto
	}
	limit := time.Duration(math.MaxInt64)
	if p.UserTimeout > 0 {
		limit = first + p.UserTimeout
	}
	for {
		switch {
		case now >= limit:
			s.GiveUp, s.Rule = now, tcpinfo.UserTimeout
			return s
		case sent > p.Retransmit.MaxRetries:
			s.GiveUp, s.Rule = now, tcpinfo.MaxRetries
			return s
		}
		rto = min(2*rto, p.Retransmit.MaxRTO)
		s.Repeats = append(s.Repeats, now)
		sent++
		now += min(rto, limit-now)
	}
}

// Idle is the schedule of keepalive probes to an idle peer that has vanished.
func Idle(p config.Policy) Schedule {
	k := p.Keepalive
	if !k.Enabled() {
		return Schedule{GiveUp: forever}
	}
	s := Schedule{GiveUp: k.Total(), Rule: tcpinfo.Keepalive}
	for i := range k.Probes {
		s.Repeats = append(s.Repeats, k.Idle+time.Duration(i)*k.Interval)
	}
	return s
}

// Handshake is the schedule of a SYN, or a SYN-ACK, that nobody answers.
func Handshake(p config.Policy) Schedule {
	s := Schedule{Rule: tcpinfo.SynRetries}
	for i := range p.Retransmit.SynRetries {
		s.Repeats = append(s.Repeats, time.Second<<(i+1)-time.Second)
	}
	s.GiveUp = time.Second<<(p.Retransmit.SynRetries+1) - time.Second
	return s
}
