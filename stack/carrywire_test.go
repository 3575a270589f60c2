package stack_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// crafted is a client of a carried connection whose segments the test writes, on a
// real wire in front of the whole stack; the backend is a kernel.
type crafted struct {
	*testing.T
	wire     *lab.Raw
	mac, box lab.MAC
	from, to netip.AddrPort
	iss, irs uint32
}

func (c *crafted) say(flags lab.Flags, seq, ack uint32, data string) {
	c.Helper()
	s := lab.Craft{SrcMAC: c.mac, DstMAC: c.box, Src: c.from, Dst: c.to, Flags: flags, Seq: c.iss + seq, Win: 60_000, Payload: []byte(data)}
	if flags.Has(lab.ACK) {
		s.Ack = c.irs + ack
	}
	if err := c.wire.Send(s.Frame()); err != nil {
		c.Fatal(err)
	}
}

// hear waits for a segment with those flags, PSH not counted, and wants it to have
// those numbers, whole, and what the policy says in its IP header.
func (c *crafted) hear(what string, flags lab.Flags, seq, ack uint32) lab.Segment {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
	defer cancel()
	s, err := c.wire.RecvSegment(ctx, func(s lab.Segment) bool { return s.Dst == c.from && s.Flags&^lab.PSH == flags })
	if err != nil {
		c.Fatalf("no %s came: %v", what, err)
	}
	if flags.Has(lab.SYN) {
		c.irs = s.Seq
	}
	if s.Seq-c.irs != seq || s.Ack-c.iss != ack || !s.Complete {
		c.Errorf("%s has <SEQ=%d><ACK=%d>, and a right checksum: %v, want <SEQ=%d><ACK=%d>", what, s.Seq-c.irs, s.Ack-c.iss, s.Complete, seq, ack)
	}
	if ip := s.Frame[14:]; ip[1] != 46<<2 || ip[8] != 17 {
		c.Errorf("%s has DS field %#x and TTL %d, want %#x and 17", what, ip[1], ip[8], 46<<2)
	}
	return s
}

// What a client that nobody knows sends does not reach the backend, is answered with
// the policy's TTL and DS field, and ends nothing; the connection itself ends with
// its last ACK, though that was lost at first.
func TestADirectConnectionOnTheWire(t *testing.T) {
	t.Parallel()
	b := newBetween(t, true, func(p *config.Policy) { p.DSCP, p.TTL = 46, 17 })
	before := labtest.Capture(t, b.client, "eth0")
	at := b.echoing(t, tcpinfo.Direct)
	var box lab.MAC
	for _, s := range before.Segments() {
		if s.Outgoing {
			box = lab.MAC(s.Frame[:6])
		}
	}
	link, err := b.client.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	beyond := labtest.Capture(t, b.server, "eth0")
	c := &crafted{T: t, wire: labtest.Raw(t, b.client, "eth0"), mac: link.MAC, box: box, from: netip.MustParseAddrPort("10.1.0.77:4000"), to: at, iss: 100_000}
	c.say(lab.SYN, 0, 0, "")
	c.hear("the SYN-ACK", lab.SYN|lab.ACK, 0, 1)
	c.say(lab.ACK, 1, 1, "")
	c.say(lab.ACK|lab.PSH, 1, 1, "hello")
	for heard := 0; heard < 5; {
		if s := c.hear("the answer", lab.ACK, 1, 6); s.Len > 0 {
			heard += s.Len
		}
	}
	c.say(lab.ACK, 6, 6, "")
	for what, blind := range map[string]struct {
		flags    lab.Flags
		seq, ack uint32
	}{
		"a RST inside of the window":        {lab.RST, 100, 0},
		"a SYN":                             {lab.SYN, 1 << 30, 0},
		"an ACK of what was never sent":     {lab.ACK, 6, 1 << 20},
		"data outside of the window":        {lab.ACK, 1 << 24, 6},
		"a FIN from far back":               {lab.FIN | lab.ACK, ^uint32(1 << 28), 6},
		"an ACK of what was sent long ago":  {lab.ACK, 6, ^uint32(1 << 28)},
		"a SYN with the number of the next": {lab.SYN, 6, 0},
	} {
		c.say(blind.flags, blind.seq, blind.ack, "")
		c.hear("the answer to "+what, lab.ACK, 6, 6)
	}
	c.say(lab.RST, 1<<30, 0, "") // gets nothing
	c.say(lab.FIN|lab.ACK, 6, 6, "")
	c.hear("the backend's FIN", lab.FIN|lab.ACK, 6, 7)
	c.hear("the backend's FIN again", lab.FIN|lab.ACK, 6, 7) // the last ACK is lost
	c.say(lab.ACK, 7, 7, "")
	e := b.owner.end(t, 2)
	if e.Carrier != tcpinfo.Direct || e.First != tcpinfo.Peer || e.FirstOf != tcpinfo.ClientLeg || e.ByRST || !e.Client.Life.FinAcked || !e.Backend.Life.FinAcked {
		t.Errorf("it ended as %s, want the client's FIN first and both acknowledged", brief(e))
	}
	resets, syns, fins := 0, 0, 0
	for _, s := range beyond.Segments() {
		switch {
		case s.Outgoing || s.Src != e.Backend.Local:
		case s.Flags.Has(lab.RST):
			resets++
		case s.Flags.Has(lab.SYN):
			syns++
		case s.Flags.Has(lab.FIN):
			fins++
		}
	}
	if resets != 0 || syns != 1 || fins != 1 {
		t.Errorf("the backend has got %d RSTs, %d SYNs and %d FINs of it, want 0, 1 and 1", resets, syns, fins)
	}
}
