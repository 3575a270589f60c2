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
// other's sequence numbers. RST and SYN are gVisor's: it follows RFC 5961,
// sections 3 and 4.
func (t *Table) guard(f *Flow, s *segment, now instant) ruling {
	if s.flags&(rst|syn) != 0 {
		return allowed
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
	// RFC 5961, 5.2: acceptable is SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
	if f.iss != 0 && f.has(synsSeen) && (after(s.ack, f.sndNxt) || before(s.ack, f.sndUna-f.maxSndWnd)) {
		t.Count.BadACK.Add(1)
		return answered
	}
	return allowed
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
