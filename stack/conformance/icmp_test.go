package conformance

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// quote is a segment of the box's as a router on its way quotes it.
func (p *peer) quote(s lab.Segment) lab.Craft {
	return lab.Craft{SrcMAC: p.b.mac, DstMAC: p.b.peerMAC, Src: p.to, Dst: p.from, Flags: s.Flags, Seq: s.Seq, Ack: s.Ack, Win: s.Win}
}

// RFC 8201, 4 and RFC 5927, 7: a packet too big about what was sent makes
// segments smaller, but not below 1280, and another's does nothing.
func TestAPacketTooBigIsBelievedIfItQuotesWhatWasSent(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, mss(1440)...)
	router := netip.MustParseAddr("fd09::99")
	write(t, c, strings.Repeat("x", 1400))
	first := p.expect("data", func(s lab.Segment) bool { return s.Len == 1400 })
	foreign := p.quote(first)
	foreign.Seq += 100_000
	p.frame(foreign.Unreachable(router, 0, 1300))
	p.frame(p.quote(first).Unreachable(router, 0, 600))
	p.say(lab.ACK, 1, 1401, "")
	write(t, c, strings.Repeat("y", 1400))
	second := p.expect("data", func(s lab.Segment) bool { return s.Seq-p.irs == 1401 })
	if second.Len != 1400 {
		t.Errorf("after forged errors a segment has %d bytes, want 1400", second.Len)
	}
	p.frame(p.quote(second).Unreachable(router, 0, 1300))
	if s := p.expect("smaller data", hasData); s.Len > 1240 {
		t.Errorf("after an MTU of 1300 a segment has %d bytes, want at most 1240", s.Len)
	}
}

// MUST-56: an unreachable net or host ends no handshake that still may come
// about; SHLD-25: the user is told when it has not.
func TestAnUnreachableHostDoesNotEndADial(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, syn := b.dial(t, p)
	for _, code := range []byte{0, 1, 5} {
		p.frame(p.quote(syn).Unreachable(netip.MustParseAddr("10.9.0.99"), code, 0))
	}
	seen := ""
	p.expectNothing("after an ICMP error", isRST)
	if err := c.Established(); !errors.Is(err, syscall.EAGAIN) {
		seen = fmt.Sprintf("the dial ends with %v", err)
	} else {
		p.say(lab.SYN|lab.ACK, 0, 1, "")
		if err := await(t, c, c.Established); err != nil {
			seen = fmt.Sprintf("the dial ends with %v", err)
		}
	}
	holds(t, seen)
}

// RFC 5927, 4.1: an error about a SYN never sent does not end a dial.
func TestAnErrorAboutAnotherSYNDoesNotEndADial(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, syn := b.dial(t, p)
	foreign := p.quote(syn)
	foreign.Seq += 12345
	p.frame(foreign.Unreachable(netip.MustParseAddr("10.9.0.99"), 3, 0))
	within(t, 5*time.Second, "the error seen", func() bool { return b.flows.Count.ICMP.Load() > 0 })
	p.say(lab.SYN|lab.ACK, 0, 1, "")
	if err := await(t, c, c.Established); err != nil {
		t.Errorf("the dial ends with %v", err)
	}
}

// SHLD-26, MUST-54: an unreachable port ends a dial.
func TestAnUnreachablePortEndsADial(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, syn := b.dial(t, p)
	p.frame(p.quote(syn).Unreachable(netip.MustParseAddr("10.9.0.77"), 3, 0))
	if err := await(t, c, c.Established); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the dial ends with %v, want %v", err, syscall.ECONNREFUSED)
	}
}
