package flow

import "time"

// ruling is what the guard makes of a segment.
type ruling uint8

const (
	allowed  ruling = iota
	ignored         // dropped without a word
	answered        // dropped, and answered with an ACK that tells where we are
)

// tsValid is how long TS.Recent counts (RFC 7323, 5.5: 24 days).
const tsValid = 24 * 24 * time.Hour / time.Millisecond

// guard checks of a segment what gVisor does not, once both ends know each
// other's sequence numbers. RST is gVisor's: it follows RFC 5961, section 3, and
// alone knows whether a RST is exact, because it acknowledges later than it
// takes.
func (t *Table) guard(f *Flow, s *segment, now instant) ruling {
	if s.flags&rst != 0 {
		return allowed
	}
	if s.flags&syn != 0 {
		// RFC 5961, 4.2: "irrespective of the sequence number, TCP MUST send an
		// ACK". gVisor sends one in half a second, for whatever reason.
		t.Count.LateSYN.Add(1)
		return answered
	}
	if s.flags&ack == 0 {
		// RFC 9293, 3.10.7.4: "if the ACK bit is off, drop the segment".
		t.Count.NoACK.Add(1)
		return ignored
	}
	if f.has(timestamps) {
		if !s.ts {
			// RFC 7323, 3.2: once agreed, a segment without is dropped.
			t.Count.NoTimestamp.Add(1)
			return ignored
		}
		if before(s.tsVal, f.tsRecent) && now.ms-f.tsRecentAt < uint32(tsValid) {
			// RFC 7323, 5.3 R1: an acknowledgement, and the segment is dropped.
			t.Count.PAWS.Add(1)
			return answered
		}
	}
	if s.length() == 0 && s.seq == f.rcvNxt-1 && f.window != 0 && !f.has(carried) {
		// RFC 9293, 3.8.4: the peer's keepalive probe. gVisor answers it as it does
		// all that is not acceptable, once in half a second. A carried one is for
		// the other end.
		return answered
	}
	// RFC 5961, 5.2: acceptable is SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
	if f.iss != 0 && f.maxSndWnd != 0 && (after(s.ack, f.sndNxt) || before(s.ack, f.sndUna-f.maxSndWnd)) {
		t.Count.BadACK.Add(1)
		return answered
	}
	if f.finished() && after(s.end(), f.peerFin+1) {
		// RFC 9293, 3.10.7.4, seventh check: behind the peer's FIN is nothing.
		// gVisor ends the connection.
		t.Count.BehindFIN.Add(1)
		return answered
	}
	return allowed
}

// finished reports whether the peer's FIN is in, with all that was before it,
// and the connection is not over yet. A carried one is finished as soon as its FIN
// has passed: where it lies is known, and the other peer may have taken it.
func (f *Flow) finished() bool {
	return f.has(carried) && f.has(peerFinSeen) || f.state == CloseWait || f.state == Closing || f.state == LastAck
}

// early judges a segment during the handshake. What gVisor does with those that
// are refused here: it repeats its SYN at once and several times, or resets a
// peer that has only begun anew.
func (t *Table) early(f *Flow, s *segment, now instant) (a answer, r ruling) {
	isACK := s.flags&ack != 0
	switch {
	case f.state == SynSent && isACK && s.ack != f.iss+1:
		// RFC 9293, 3.10.7.3: "If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset
		// (unless the RST bit is set [...]) <SEQ=SEG.ACK><CTL=RST>".
		if s.flags&rst != 0 || !f.mayChallenge(now) {
			return a, ignored
		}
		t.Count.BadACK.Add(1)
		return answer{rst: true, seq: s.ack}, answered
	case f.state != SynReceived:
		return a, allowed
	case s.flags&rst != 0:
		if s.seq == f.irs+1 {
			return a, allowed
		}
		// RFC 5961, 3.2: inside of the window a challenge, outside nothing.
		if inside := after(s.seq, f.irs) && before(s.seq, f.irs+1+f.offered()); !inside {
			return a, ignored
		}
	case s.flags&syn != 0:
		// The peer's SYN again, or its SYN-ACK after SYNs that have crossed; else
		// RFC 9293, 3.10.7.4, first and fourth check, and RFC 5961, 4.2.
		if s.seq == f.irs {
			return a, allowed
		}
		t.Count.LateSYN.Add(1)
	case !before(s.seq, f.irs+1) && before(s.seq, f.irs+1+max(f.offered(), 1)):
		return a, allowed
	}
	if !f.mayChallenge(now) {
		return a, ignored
	}
	t.Count.Challenges.Add(1)
	return f.answer(now), answered
}

// challengesMost bounds what a flow answers in a second on its own (RFC 5961, 7).
const challengesMost = 10

func (f *Flow) mayChallenge(now instant) bool {
	if second := uint16(now.ms / 1000); second != f.challenge {
		f.challenge, f.challenges = second, 0
	}
	if f.challenges >= challengesMost {
		return false
	}
	f.challenges++
	return true
}
