package flow_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// What is for a peer goes where its segments come from, those that count: who
// knows the ports alone, and sends what is refused, diverts nothing.
func TestARefusedSegmentDivertsNothing(t *testing.T) {
	t.Parallel()
	foreign, other := lab.MAC{2, 0, 0, 0, 0, 66}, lab.MAC{2, 0, 0, 0, 0, 67}
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		seq := uint32(6)
		k.each(func(p, o *end) {
			goes := func(when string, want lab.MAC) {
				k.Helper()
				o.say(lab.ACK, seq, 6, "data")
				if s := p.hear("data", lab.ACK); lab.MAC(s.Frame[:6]).String() != want.String() {
					k.Errorf("%s what is for the %s goes to %v, want %v", when, p.name, lab.MAC(s.Frame[:6]), want)
				}
			}
			for _, c := range []lab.Craft{
				p.craft(lab.ACK, 1<<30, 6, "evil"), p.craft(lab.SYN, 6, 0, ""), p.craft(lab.ACK, 6, 1<<30, "evil"), p.craft(lab.PSH, 6, 0, "evil"),
			} {
				c.SrcMAC = foreign
				p.send(c)
			}
			c := p.craft(lab.ACK, 6, 6, "") // as it should be, by the wrong card
			c.SrcMAC = foreign
			p.by(o.card, c)
			p.heard, o.heard = nil, nil
			goes("after refused segments", p.mac)
			c = p.craft(lab.ACK, 6, 6, "") // its router is another now
			c.SrcMAC = other
			p.send(c)
			o.hear("an ACK", lab.ACK)
			goes("after one that counts", other)
			p.heard, o.heard, seq = nil, nil, 6
		})
	})
}

// RFC 9293, 3.10.7.4, first check: what lies before the window is acknowledged and
// else means nothing, neither its FIN nor its ACK. The peer may have missed an ACK
// and so repeat what lies close before; that is for the other one to acknowledge.
func TestOldSegmentsMeanNothing(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.each(func(p, o *end) {
			o.say(lab.ACK|lab.PSH, 6, 6, "under way")
			p.hear("data", lab.ACK)
			before := *k.live()
			for _, seq := range []uint32{^uint32(0) - 1000, ^uint32(0) - 60_000, 1, 5} { // from zero on its FIN would be at most where the next byte is
				p.win = 0
				c := p.craft(lab.FIN|lab.ACK, seq, 15, "")
				p.win = 50_000
				p.send(c)
			}
			p.heard, o.heard = nil, nil // either end has acknowledged them
			after := *k.live()
			for i, l := range [][2]tcpinfo.Leg{{before.Client, after.Client}, {before.Backend, after.Backend}} {
				if l[0].Info.State != l[1].Info.State || l[0].Info.Unacked != l[1].Info.Unacked || l[0].Info.SndWnd != l[1].Info.SndWnd || l[1].EOF || l[1].FIN {
					k.Errorf("old FINs of the %s have changed leg %d from %+v to %+v", p.name, i, l[0], l[1])
				}
			}
			p.say(lab.FIN|lab.ACK, ^uint32(1<<28), 6, "")
			p.hearAt("an ACK", lab.ACK, 15, 6)
			o.silence("after a segment from far back")
			p.say(lab.ACK, 1, 6, "hello")
			o.hearAt("what was repeated", lab.ACK, 1, 6)
			o.heard = nil
			p.say(lab.ACK, 6, 15, "")
			o.hearAt("an ACK", lab.ACK, 6, 15)
			o.iss += 9 // the next one counts from there
			p.irs += 9
		})
		k.closes(6, 6)
	})
}

// Behind a FIN there is nothing, also before it is acknowledged (RFC 9293,
// 3.10.7.4, seventh check).
func TestWhatComesBehindAFINOfACarriedOneIsRefused(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.client.say(lab.FIN|lab.ACK, 6, 6, "abc")
		k.backend.hearAt("FIN with data", lab.FIN|lab.ACK, 6, 6)
		for _, flags := range []lab.Flags{lab.FIN | lab.ACK, lab.ACK} {
			k.client.say(flags, 6, 6, "abcdef")
			k.client.hearAt("an ACK", lab.ACK, 6, 6)
			k.backend.silence("after what lies behind the FIN")
		}
		k.client.say(lab.FIN|lab.ACK, 6, 6, "abc")
		k.backend.hearAt("the FIN again", lab.FIN|lab.ACK, 6, 6)
		k.backend.say(lab.ACK, 6, 10, "")
		k.client.hearAt("an ACK", lab.ACK, 6, 10)
		k.states("CLOSE-WAIT", "FIN-WAIT-2")
	})
}

// A challenge offers no more than was offered before: the window of a SYN is not
// scaled, and that of a challenge is (RFC 7323, 2.2).
func TestAChallengeOffersNoMoreThanWasOffered(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.client.say(lab.SYN, 500, 0, "")
		if s := k.client.hearAt("a challenge", lab.ACK, 1, 1); int(s.Win)<<7 > 50_000 || int(s.Win)<<7 < 30_000 {
			k.Errorf("it offers %d bytes, want what the SYN-ACK did, 40,000 or 50,000", int(s.Win)<<7)
		}
	})
}

// RFC 5961, 7: each leg answers ten times a second at most, for itself (no count is
// shared), and the other peer hears nothing of it.
func TestChallengesOfACarriedConnectionAreLimited(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.each(func(p, o *end) {
			for range 300 {
				p.say(lab.RST, 500, 0, "")
				p.say(lab.SYN, 500, 0, "")
				p.say(lab.ACK, 6, 1<<20, "evil")
			}
			if n := len(p.heard); n != 10 {
				k.Errorf("900 segments get %d answers, want ten", n)
			}
			p.heard = nil
			o.silence("in a flood at the other side")
			k.clock.Advance(time.Second)
			p.say(lab.SYN, 500, 0, "")
			p.hearAt("a challenge", lab.ACK, 6, 6)
		})
		if n := k.table.Count.LateSYN.Load(); n != 602 {
			k.Errorf("%d SYNs are counted, want 602", n)
		}
		k.exchange(6, 6)
	})
}

// An ACK that was overtaken by a later one offers what has been taken back since: a
// challenge does not.
func TestAChallengeOffersWhatTheLatestACKDid(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.each(func(p, o *end) {
			p.say(lab.ACK|lab.PSH, 6, 6, "0123456789")
			o.hear("data", lab.ACK)
			for _, late := range []struct {
				ack uint32
				win uint16
			}{{16, 10}, {11, 400}} {
				o.win = late.win
				o.say(lab.ACK, 6, late.ack, "")
				p.hearAt("an ACK", lab.ACK, 6, late.ack)
			}
			p.say(lab.SYN, 500, 0, "")
			if s := p.hearAt("a challenge", lab.ACK, 6, 16); s.Win != 10 {
				k.Errorf("it offers %d, want the 10 of the latest ACK", s.Win)
			}
			o.win = 50_000
			p.iss, o.irs = p.iss+10, o.irs+10 // what follows counts from there
		})
		k.exchange(6, 6)
	})
}
