package conformance

import (
	"net/netip"
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

// RFC 9293, 3.10.7.3: a SYN-ACK that was damaged on its way is as good as lost, with
// whatever bit: the right one that follows opens the connection, as who sent it
// takes our ACK for the stack's word.
func TestADamagedSYNACKIsAsGoodAsLost(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			const addresses = 12 // bytes of the Ethernet header that a card goes by
			for bit := addresses * 8; ; bit++ {
				p := b.peer(t, at, uint16(7000+bit))
				c, _ := b.dial(t, p)
				syn := p.craft(lab.SYN|lab.ACK, 0, 1, "")
				syn.Options = modern()
				frame := syn.Frame()
				if bit == len(frame)*8 {
					c.Abort()
					return
				}
				frame[bit/8] ^= 0x80 >> (bit % 8)
				p.frame(frame)
				p.send(syn)
				p.expectACK(1, 1)
				if err := await(t, c, c.Established); err != nil {
					t.Fatalf("after a SYN-ACK with bit %d of byte %d flipped: %v", bit%8, bit/8, err)
				}
				c.Abort()
			}
		})
	}
}
