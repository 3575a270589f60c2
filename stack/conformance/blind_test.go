package conformance

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

func stackAddr(port uint16) netip.AddrPort { return netip.AddrPortFrom(box4, port) }

// RFC 5961, 3.2: a RST outside the window gets nothing, one inside a challenge,
// and only the exact one resets. In IPv6 as well.
func TestOnlyAnExactRSTResets(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, mss(1220)...)
	for _, seq := range []uint32{0, ^uint32(1000), 1 << 30} {
		p.say(lab.RST, seq, 0, "")
	}
	p.expectNothing("an answer to a RST outside the window", anything)
	p.say(lab.RST, 500, 0, "")
	p.expectACK(1, 1)
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("it is %s", got)
	}
	p.say(lab.RST, 1, 0, "")
	within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
}

// RFC 5961, 4.2: a SYN on a connection gets a challenge, wherever it lies.
func TestASYNOnAConnectionGetsAChallenge(t *testing.T) {
	t.Parallel()
	for name, seq := range map[string]uint32{"inside the window": 100, "outside": 1 << 30, "its own": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := newBox(t, nil).open(t, box6, mss(1220)...)
			p.say(lab.SYN, seq, 0, "")
			p.expectACK(1, 1)
			p.say(lab.ACK|lab.PSH, 1, 1, "abc")
			if got := read(t, c, 3); got != "abc" {
				t.Errorf("read %q", got)
			}
		})
	}
}

// RFC 5961, 3.2: a RST that is not exact ends no handshake either.
func TestAnInexactRSTDoesNotEndAHandshake(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.irs = p.expect("SYN-ACK", isSYNACK).Seq
	p.say(lab.RST, 100, 0, "")
	p.expectNothing("a reset", isRST)
	p.say(lab.ACK, 1, 1, "")
	seen := ""
	if s, came := p.next(isRST, 300*time.Millisecond); came {
		seen = fmt.Sprintf("the handshake is over: its ACK gets %v", s)
	} else if c := accept(t, l); c.State() != "ESTABLISHED" {
		seen = "it is " + c.State()
	}
	holds(t, seen)
}

// RFC 5961, 7: challenges are limited.
func TestChallengesAreLimited(t *testing.T) {
	t.Parallel()
	p, _ := newBox(t, nil).open(t, box4, mss(1460)...)
	for range 300 {
		p.say(lab.RST, 500, 0, "")
		p.say(lab.SYN, 500, 0, "")
	}
	answers := 0
	for {
		if _, came := p.next(anything, 400*time.Millisecond); !came {
			break
		}
		answers++
	}
	if answers == 0 || answers > 30 {
		t.Errorf("%d answers to 600 segments, want a few", answers)
	}
}

// MUST-57, MUST-63 in IPv6: no connection with a group or from nowhere.
func TestSYNsToAndFromGroupsAreIgnoredInIPv6(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box6)
	p := b.peer(t, box6, 5000)
	for _, x := range [][2]string{{"fd09::77", "ff02::1"}, {"ff02::1", "fd09::1"}, {"::", "fd09::1"}} {
		s := p.craft(lab.SYN, 0, 0, "")
		s.Src, s.Dst = netip.AddrPortFrom(netip.MustParseAddr(x[0]), 5000), netip.AddrPortFrom(netip.MustParseAddr(x[1]), port)
		if s.Dst.Addr().IsMulticast() {
			s.DstMAC = lab.MAC{0x33, 0x33, 0, 0, 0, 1}
		}
		p.send(s)
	}
	p.handshake() // what came before was handled by now
	accept(t, l)
	if n := len(b.flows.List()); n != 1 {
		t.Errorf("%d connections are known, want one", n)
	}
}

// RFC 9293, 3.10.7.2: a SYN with RST or FIN, and segments of no connection.
func TestWhatOpensNoConnectionInLISTEN(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN|lab.RST, 0, 0, "")
	p.expectNothing("an answer to SYN and RST", anything)
	p.say(lab.RST|lab.ACK, 0, 1, "")
	p.expectNothing("an answer to RST and ACK", anything)
	p.say(lab.SYN|lab.ACK, 0, 77, "")
	if s := p.expect("RST", isRST); s.Seq != p.irs+77 {
		t.Errorf("a SYN-ACK in LISTEN gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
}

// MUST-44, MUST-45: every segment of a connection comes from the address of its
// SYN.
func TestAConnectionKeepsItsAddress(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	for _, at := range []netip.Addr{box4, box6} {
		p := b.peer(t, at, 7000)
		c, syn := b.dial(t, p)
		if syn.Src.Addr() != at {
			t.Errorf("the SYN comes from %v, want %v", syn.Src, at)
		}
		p.say(lab.SYN|lab.ACK, 0, 1, "")
		if s := p.expectACK(1, 1); s.Src != syn.Src {
			t.Errorf("the ACK comes from %v, the SYN came from %v", s.Src, syn.Src)
		}
		if err := await(t, c, c.Established); err != nil {
			t.Error(err)
		}
	}
}

// MUST-46: nobody dials a group, and nothing of it is on the wire.
func TestNoSYNGoesToAGroup(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	for _, to := range []string{"224.0.0.1", "255.255.255.255", "10.9.0.255", "ff02::1"} {
		c, err := b.Dial(netip.AddrPortFrom(netip.MustParseAddr(to), 7000), "test")
		if err == nil {
			t.Cleanup(c.Abort)
			if err := c.Established(); err == nil || errors.Is(err, syscall.EAGAIN) {
				t.Errorf("%s is dialled", to)
			}
		}
	}
	_, syn := b.dial(t, p) // the first that comes is ours
	if syn.Dst != p.from {
		t.Errorf("a SYN went to %v", syn.Dst)
	}
	if n := len(b.flows.List()); n != 1 {
		t.Errorf("%d SYNs went out, want the last", n)
	}
}
