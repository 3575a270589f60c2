package flow_test

import (
	"testing"

	"github.com/lastack/lastack/internal/lab"
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
