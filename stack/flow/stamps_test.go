package flow_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// stamp is the timestamp of a segment, and its echo.
func stamp(s lab.Segment) (val, ecr uint32) {
	for o := s.Options; len(o) > 1 && o[0] != 0; {
		switch {
		case o[0] == 1:
			o = o[1:]
			continue
		case o[0] == 8 && len(o) >= 10:
			return binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])
		}
		o = o[o[1]:]
	}
	return 0, 0
}

// A peer's clock may tick once in 100 ms, or in half a second (RFC 7323, 5.4). What
// the table says by itself to the other one has no later timestamp than what that
// says next, or it would be refused as old (5.3).
func TestWhatTheTableSaysIsNotAheadOfTheOtherPeersClock(t *testing.T) {
	t.Parallel()
	for _, by := range []tcpinfo.Carrier{tcpinfo.Direct, tcpinfo.Splice} {
		t.Run(string(by), func(t *testing.T) {
			k := newTalk(t, by, true, nil)
			k.exchange(1, 1)
			k.each(func(p, o *end) {
				k.clock.Advance(25 * time.Second)
				p.say(lab.SYN, 500, 0, "")
				ours, _ := stamp(p.hearAt("a challenge", lab.ACK, 6, 6))
				o.val += 5
				o.say(lab.ACK, 6, 6, "")
				if theirs, _ := stamp(p.hear("an ACK", lab.ACK)); int32(theirs-ours) < 0 {
					k.Errorf("the %s hears %d of us and then %d, which is older", p.name, ours, theirs)
				}
			})
		})
	}
}

// A SYN that is repeated has the client's clock too, and its SYN-ACK echoes what
// the client has said.
func TestARepeatedSYNHasTheClientsClock(t *testing.T) {
	t.Parallel()
	k := stillTalk(t, tcpinfo.Direct, nil)
	k.client.ts, k.backend.ts = true, true
	first := k.client.val
	k.opens() // it is lost
	k.clock.Advance(3 * time.Second)
	k.client.val += 6 // its clock ticks twice a second
	k.opens()
	syn := k.backend.ecr
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	answer := k.client.hear("a SYN-ACK", lab.SYN|lab.ACK)
	if _, ecr := stamp(answer); ecr != first+6 {
		t.Errorf("it echoes %d, want what the second SYN said, %d", ecr-first, 6)
	}
	k.client.irs = answer.Seq
	k.client.say(lab.ACK, 1, 1, "")
	if val, _ := stamp(k.backend.hear("an ACK", lab.ACK)); val != syn {
		t.Errorf("the ACK has timestamp %d and the SYN had %d, want the same", val, syn)
	}
}

// A connection may be idle for so long that the peer's clock has come half round:
// its answers to our probes tell where it is.
func TestAnIdlePeersClockIsFollowed(t *testing.T) {
	t.Parallel()
	for _, by := range []tcpinfo.Carrier{tcpinfo.Direct, tcpinfo.Splice} {
		t.Run(string(by), func(t *testing.T) {
			k := newTalk(t, by, true, nil)
			k.exchange(1, 1)
			for range 5 {
				k.client.val += 1 << 29 // six days of milliseconds
				k.waits(61*time.Second, 6, 6, k.client, k.backend)
			}
			k.client.heard, k.backend.heard = nil, nil
			k.exchange(6, 6)
		})
	}
}
