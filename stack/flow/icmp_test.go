package flow_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

// RFC 1191, RFC 5927: a "packet too big" that quotes what is under way makes the
// segments of that leg smaller, no other does; the other peer need not know.
func TestAPacketTooBigOnACarriedLeg(t *testing.T) {
	t.Parallel()
	router := netip.MustParseAddr("10.0.0.254")
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.each(func(p, o *end) {
			seq := uint32(6)
			says := func() lab.Segment {
				k.Helper()
				o.say(lab.ACK|lab.PSH, seq, 6, strings.Repeat("x", 1200))
				seq += 1200
				return p.hearAt("data", lab.ACK, seq-1200, 6)
			}
			first := says()
			quote := lab.Craft{SrcMAC: lab.MAC(first.Frame[6:12]), DstMAC: p.mac, Src: first.Src, Dst: first.Dst, Flags: lab.ACK, Seq: first.Seq, Ack: first.Ack}
			foreign := quote
			foreign.Seq += 100_000
			p.card.Inbound(asFrame(foreign.Unreachable(router, 4, 900)))
			p.card.Inbound(asFrame(quote.Unreachable(router, 4, 300))) // smaller than any
			if says(); k.cut != 0 {
				k.Errorf("after forged errors segments for the %s are cut to %d bytes", p.name, k.cut)
			}
			p.card.Inbound(asFrame(quote.Unreachable(router, 4, 900)))
			want := 900 - 40
			if p.ts {
				want -= 12
			}
			if says(); k.cut != want {
				k.Errorf("after an MTU of 900 segments for the %s are cut to %d bytes, want %d", p.name, k.cut, want)
			}
			k.cut = 0
			p.say(lab.ACK, 6, seq, "")
			o.hearAt("an ACK", lab.ACK, 6, seq)
			o.iss, p.irs = o.iss+seq-6, p.irs+seq-6 // what follows counts from there
		})
		k.exchange(6, 6)
	})
}
