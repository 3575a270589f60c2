package netif

import (
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif/frame"
)

const enough = 512 << 10 // bytes after which a stream is in full swing

func TestConnectionOutlivesALinkThatWasDown(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*rig) *lab.Host // whose end of the cable goes down
	}{
		{"set down here", func(r *rig) *lab.Host { return r.card }},
		{"unplugged at the far end", func(r *rig) *lab.Host { return r.peer }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, wire, EndpointOptions{Queues: 1})
			s := r.streamTo(families[0].ours)
			s.advance(enough)
			r.setUp(c.end(r), false)
			until(t, "the link is seen to be down", func() bool { return !r.e.Up() })
			before := r.e.Counters()
			r.e.Send(frame.Header{}, ethernet(frame.TypeIPv4), tcp4(syn, 1, nil))
			after := r.e.Counters()
			if after.TxDropLinkDown <= before.TxDropLinkDown {
				t.Error("a frame sent while the link is down is not counted as dropped")
			}
			if after.TxFrames != before.TxFrames || after.TxBytes != before.TxBytes {
				t.Errorf("while the link is down %d frames of %d bytes are counted as sent, want none",
					after.TxFrames-before.TxFrames, after.TxBytes-before.TxBytes)
			}
			r.setUp(c.end(r), true)
			until(t, "the link is seen to be up", r.e.Up)
			s.advance(enough)
			s.finish()
			if got := r.e.Counters().LinkChanges; got < 3 {
				t.Errorf("counted %d link changes, want up, down and up", got)
			}
		})
	}
}

func (r *rig) setUp(h *lab.Host, up bool) {
	r.t.Helper()
	if err := h.SetUp("eth0", up); err != nil {
		r.t.Fatal(err)
	}
}

func TestConnectionOutlivesANewMTU(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new int
	}{
		{"smaller", 1500, 1280},
		{"jumbo", 1500, 9000},
		{"jumbo no more", 9000, 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, copperWire, EndpointOptions{Queues: 1})
			r.setMTU(c.old)
			streams := []*stream{r.streamTo(families[0].ours), r.streamTo(families[1].ours)}
			for _, s := range streams {
				s.advance(enough)
			}
			r.setMTU(c.new)
			largest := labtest.Capture(t, r.peer, "eth0")
			for _, s := range streams {
				s.advance(enough)
				s.finish()
			}
			if got := longest(largest); got > c.new+frame.EthernetSize {
				t.Errorf("the card sent %d bytes in one frame with an MTU of %d", got, c.new)
			}
			r.exchange(families[0].ours) // a new connection
			if c.new > c.old && longest(largest) < c.new-100 {
				t.Errorf("the longest frame of a new connection had %d bytes, want about %d", longest(largest), c.new)
			}
		})
	}
}

// longest is the length of the longest frame that came in.
func longest(c *lab.Capture) (n int) {
	for _, f := range c.Frames() {
		if !f.Outgoing {
			n = max(n, f.Length)
		}
	}
	return n
}

// setMTU sets the MTU of both ends, and waits until the Endpoint knows.
func (r *rig) setMTU(mtu int) {
	r.t.Helper()
	for _, h := range []*lab.Host{r.peer, r.card} {
		if err := h.SetMTU("eth0", mtu); err != nil {
			r.t.Fatal(err)
		}
	}
	until(r.t, "the new MTU is known", func() bool { return r.port.MTU() == uint32(mtu) })
}

func TestJumboFrames(t *testing.T) {
	for _, connect := range []cable{wire, copperWire} {
		r := newRig(t, connect, EndpointOptions{Queues: 1})
		r.setMTU(9000)
		for _, f := range families {
			r.exchange(f.ours)
		}
		if n := r.e.Counters(); n.RxTruncated+n.RxErrors+n.TxDropTooBig+n.TxDropError > 0 {
			t.Errorf("frames were dropped: %+v", n)
		}
	}
}

func TestCardThatComesBackIsPickedUp(t *testing.T) {
	for name, queues := range map[string]int{"one queue": 1, "two queues": 2} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, wire, EndpointOptions{Queues: queues})
			s := r.streamTo(families[0].ours)
			s.advance(enough)
			if err := r.card.RemoveLink("eth0"); err != nil {
				t.Fatal(err)
			}
			until(t, "the card is seen to be gone", func() bool { return !r.e.Up() })
			before := r.e.Counters().TxDropLinkDown
			r.e.Send(frame.Header{}, ethernet(frame.TypeIPv4), tcp4(syn, 1, nil))
			if got := r.e.Counters().TxDropLinkDown; got <= before {
				t.Error("a frame sent without a card is not counted as dropped")
			}
			wire(t, r.peer, r.card)
			r.furnishPeer()
			until(t, "the new card is seen to be up", r.e.Up)
			link, err := r.card.Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := r.port.LinkAddress(), string(link.MAC); string(got) != want {
				t.Errorf("the port has the address %s, want that of the new card %s", got, link.MAC)
			}
			for _, f := range families {
				r.exchange(f.ours)
			}
			s.advance(enough) // the old connection goes on
			s.finish()
		})
	}
}
