package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// MUST-15: without an MSS option segments have at most 536 bytes in IPv4 and
// 1220 in IPv6.
func TestWithoutAnMSSTheDefaultOfTheFamilyHolds(t *testing.T) {
	t.Parallel()
	for at, most := range map[netip.Addr]int{box4: 536, box6: 1220} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			p, c := newBox(t, nil).open(t, at)
			write(t, c, strings.Repeat("x", 4000))
			seen := ""
			if s := p.expect("data", hasData); s.Len != most {
				seen = fmt.Sprintf("a segment of %d bytes, want %d", s.Len, most)
			}
			holds(t, seen)
		})
	}
}

// MUST-14, MUST-67, SHLD-5: what we offer is the MTU without the fixed headers.
func TestTheOfferedMSSIsTheMTUWithoutHeaders(t *testing.T) {
	t.Parallel()
	for at, want := range map[netip.Addr]uint16{box4: 1460, box6: 1440} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			b.listen(t, at)
			p := b.peer(t, at, 5000)
			data, _ := optionOf(p.handshake(), 2)
			if len(data) != 2 || binary.BigEndian.Uint16(data) != want {
				t.Errorf("the SYN-ACK offers %v, want %d", data, want)
			}
			_, syn := b.dial(t, b.peer(t, at, 7000))
			data, _ = optionOf(syn, 2)
			if len(data) != 2 || binary.BigEndian.Uint16(data) != want {
				t.Errorf("the SYN offers %v, want %d", data, want)
			}
		})
	}
}

// RFC 7323, 1.3, 2.2, 3.2: a SYN-ACK has only the options that the SYN had, and
// the window scale is in no other segment.
func TestOptionsAreAgreedOnByBothSYNs(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.listen(t, box4)
	plain := b.peer(t, box4, 5000)
	s := plain.handshake(mss(1460)...)
	for _, kind := range []byte{3, 4, 8} {
		if _, found := optionOf(s, kind); found {
			t.Errorf("the SYN-ACK has option %d, the SYN had not", kind)
		}
	}
	full := b.peer(t, box4, 5001)
	s = full.handshake(append(append(append(mss(1460), option(3, 7)...), option(4)...), stamp(peerTS, 0)...)...)
	for _, kind := range []byte{3, 4, 8} {
		if _, found := optionOf(s, kind); !found {
			t.Errorf("the SYN-ACK lacks option %d, the SYN had it", kind)
		}
	}
	full.say(lab.ACK|lab.PSH, 1, 1, "abc")
	s = full.expect("ACK", anything)
	for _, kind := range []byte{2, 3, 4} {
		if _, found := optionOf(s, kind); found {
			t.Errorf("a segment without SYN has option %d", kind)
		}
	}
}

// RFC 7323, 2.3: a shift over 14 counts as 14, and the connection goes on.
func TestAWindowScaleOverFourteenCountsAsFourteen(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, append(mss(1000), option(3, 20)...)...)
	p.win = 2
	p.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "a window of 2 << 14", func() bool { return c.Info().SndWnd == 2<<14 })
}

// RFC 7323, 2.2: the window in a SYN is never scaled.
func TestTheWindowOfASYNIsNotScaled(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	s := p.handshake(append(mss(1460), option(3, 7)...)...)
	scale, _ := optionOf(s, 3)
	if len(scale) != 1 || scale[0] > 14 {
		t.Fatalf("the SYN-ACK has a window scale of %v, want at most 14", scale)
	}
	p.say(lab.ACK|lab.PSH, 1, 1, "abc")
	ack := p.expectACK(1, 4)
	if seen := int(ack.Win) << scale[0]; seen < int(s.Win)-1000 || scale[0] > 0 && ack.Win >= s.Win {
		t.Errorf("the SYN-ACK offers %d, the next segment %d << %d", s.Win, ack.Win, scale[0])
	}
}

// RFC 7323, 5.4: the clock of timestamps ticks between once a millisecond and
// once a second, and never goes back.
func TestTheClockOfTimestampsTicksAsItShould(t *testing.T) {
	t.Parallel()
	p, _ := newBox(t, nil).open(t, box4, append(mss(1460), stamp(peerTS, 0)...)...)
	tell := func(seq uint32) (uint32, time.Time) {
		t.Helper()
		p.say(lab.ACK|lab.PSH, seq, 1, "a")
		s := p.expect("ACK", anything)
		data, _ := optionOf(s, 8)
		if len(data) != 8 {
			t.Fatalf("no timestamp in %v", s)
		}
		return binary.BigEndian.Uint32(data), s.Time
	}
	first, begin := tell(1)
	p.expectNothing("nobody asked", anything)
	second, end := tell(2)
	if ms := uint32(end.Sub(begin).Milliseconds()); second-first == 0 || second-first > ms+50 {
		t.Errorf("the clock went on by %d in %d ms", second-first, ms)
	}
}

// RFC 7323, 5.2: a RST is not judged by its timestamp.
func TestARSTWithAnOldTimestampResets(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, append(mss(1460), stamp(peerTS, 0)...)...)
	p.val -= 10_000
	p.say(lab.RST, 1, 0, "")
	within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
}

// RFC 7323, 4.3: one ACK of two segments echoes the first of them, so that the
// delay of the ACK counts into the round trip. The second comes while the ACK of
// the first is held; where it came too late, another connection is tried.
func TestOneACKOfTwoSegmentsEchoesTheFirst(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.listen(t, box4)
	for from := range uint16(20) {
		p := b.peer(t, box4, 5000+from)
		p.handshake(append(mss(1460), stamp(peerTS, 0)...)...)
		p.val = peerTS + 10
		p.say(lab.ACK|lab.PSH, 1, 1, "abc")
		if _, came := p.next(anything, 5*time.Millisecond); came {
			continue // the ACK of the first alone
		}
		p.val = peerTS + 20
		p.say(lab.ACK|lab.PSH, 4, 1, "def")
		s := p.expect("ACK", anything)
		if s.Ack-p.iss != 7 {
			continue
		}
		seen := ""
		if data, _ := optionOf(s, 8); len(data) != 8 || binary.BigEndian.Uint32(data[4:]) != peerTS+10 {
			seen = fmt.Sprintf("the ACK of segments with %d and %d echoes %x", peerTS+10, peerTS+20, data)
		}
		holds(t, seen)
		return
	}
	t.Fatal("no ACK was of two segments")
}

// RFC 7323, 2.2: a window scale in a segment without SYN says nothing; 3.2: nor
// does a timestamp that was not agreed on.
func TestOptionsThatWereNotAgreedOnAreIgnored(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, append(mss(1000), option(3, 2)...)...)
	s := p.craft(lab.ACK|lab.PSH, 1, 1, "abc")
	s.Options, s.Win = append(option(3, 9), stamp(1, 2)...), 1000
	p.send(s)
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("read %q", got)
	}
	if got := c.Info().SndWnd; got != 4000 {
		t.Errorf("the window is %d, want 1000 << 2", got)
	}
	if _, found := optionOf(p.expectACK(1, 4), 8); found {
		t.Error("our ACK has a timestamp that was not agreed on")
	}
}

// RFC 7323, 3.2: what lacks the agreed timestamp ends nothing.
func TestASegmentWithoutTheAgreedTimestampEndsNothing(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, append(mss(1220), stamp(peerTS, 0)...)...)
	p.ts = false
	p.say(lab.ACK|lab.PSH, 1, 1, "bare")
	p.expectNothing("a reset", isRST)
	p.ts = true
	p.say(lab.ACK|lab.PSH, 1, 1, "full")
	if got := read(t, c, 4); got != "full" {
		t.Errorf("read %q", got)
	}
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}
