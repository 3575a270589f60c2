package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// RFC 9293, 3.5 and 3.10.7.4: a SYN-ACK that comes again, because our ACK was
// lost, is acknowledged again.
func TestASYNACKThatComesAgainIsAcknowledgedAgain(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, _ := b.dial(t, p)
	for range 2 {
		p.say(lab.SYN|lab.ACK, 0, 1, "")
		p.expectACK(1, 1)
	}
	if err := await(t, c, c.Established); err != nil {
		t.Error(err)
	}
}

// RFC 9293, 3.10.7.3: what is neither SYN nor RST is dropped in SYN-SENT, and a
// RST counts only with an ACK of our SYN.
func TestWhatOpensNothingInSYNSENTIsDropped(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box6, 7000)
	c, _ := b.dial(t, p)
	p.say(lab.FIN, 0, 0, "")
	p.say(lab.ACK, 0, 1, "")
	p.say(lab.ACK|lab.PSH, 0, 1, "data")
	p.say(lab.RST, 0, 0, "")
	p.expectNothing("an answer", func(s lab.Segment) bool { return s.Flags != lab.SYN })
	p.say(lab.SYN|lab.ACK, 0, 1, "")
	if err := await(t, c, c.Established); err != nil {
		t.Error(err)
	}
}

// RFC 9293, 3.10.7.1: the RST that answers a segment without ACK acknowledges
// its whole length, SYN and FIN included.
func TestARSTAcknowledgesTheWholeSegment(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 5000)
	for _, x := range []struct {
		flags lab.Flags
		data  string
		want  uint32
	}{{lab.SYN, "", 1}, {lab.SYN, "abc", 4}, {lab.FIN, "", 1}, {lab.PSH, "abc", 3}, {lab.SYN | lab.FIN, "ab", 4}} {
		p.say(x.flags, 0, 0, x.data)
		s := p.expect("RST", isRST)
		if s.Seq != 0 || s.Ack-p.iss != x.want || !s.Flags.Has(lab.ACK) {
			t.Errorf("%v %q gets %v, want <SEQ=0><ACK=SEG.SEQ+%d><CTL=RST,ACK>", x.flags, x.data, s, x.want)
		}
	}
}

// RFC 9293, 3.10.7.4, fifth check: a window that an older segment tells does not
// replace a newer one.
func TestAnOldSegmentDoesNotChangeTheWindow(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1000)...)
	write(t, c, "12345678")
	p.expect("data", hasData)
	p.win = 5000
	p.say(lab.ACK|lab.PSH, 1, 9, "abc")
	within(t, 5*time.Second, "the window", func() bool { return c.Info().SndWnd == 5000 })
	p.win = 77
	p.say(lab.ACK, 4, 5, "") // an ACK that was overtaken
	p.expectNothing("an answer", hasData)
	write(t, c, strings.Repeat("x", 2000))
	seen, at := "", uint32(0)
	for at < 2008 {
		s, came := p.next(hasData, 100*time.Millisecond)
		if !came {
			seen = fmt.Sprintf("after an old segment with a window of 77 only %d of 2000 bytes are sent", max(at, 8)-8)
			break
		}
		at = max(at, s.Seq-p.irs-1+uint32(s.Len))
	}
	holds(t, seen)
}

// MUST-39: once there is room again, the window is told without being asked for.
func TestAWindowThatOpensIsTold(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1460)...)
	sent := uint32(0)
	for chunk := strings.Repeat("x", 1460); ; {
		p.say(lab.ACK|lab.PSH, 1+sent, 1, chunk)
		s := p.expect("ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Ack-p.iss > sent })
		sent = s.Ack - p.iss - 1
		if s.Win == 0 {
			break
		}
		if s.Win < 1460 {
			chunk = chunk[:s.Win]
		}
	}
	read(t, c, int(sent))
	s := p.expect("the open window", func(s lab.Segment) bool { return s.Win > 0 })
	if s.Win < 1460 || s.Ack-p.iss != sent+1 {
		t.Errorf("told is %v", s)
	}
}

// RFC 9293, 3.10.7.4: of a segment that begins before the window or ends behind
// it, what lies inside is taken.
func TestTheNewPartOfASegmentIsTaken(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, mss(1220)...)
	p.say(lab.ACK|lab.PSH, 1, 1, "abc")
	p.expectACK(1, 4)
	p.say(lab.ACK|lab.PSH|lab.FIN, 2, 1, "bcdef")
	p.expectACK(1, 8)
	if got := read(t, c, 6); got != "abcdef" {
		t.Errorf("read %q", got)
	}
	within(t, 5*time.Second, "CLOSE-WAIT", func() bool { return c.State() == "CLOSE-WAIT" })
}

// RFC 9293, 3.10.7.4: in LAST-ACK a FIN that comes again is acknowledged, and an
// ACK of something else ends nothing.
func TestLASTACKEndsByTheACKOfItsFINAlone(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1460)...)
	p.say(lab.FIN|lab.ACK, 1, 1, "")
	p.expectACK(1, 2)
	write(t, c, "last")
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.ACK, 2, 5, "") // the data, not the FIN
	p.say(lab.FIN|lab.ACK, 1, 5, "")
	p.expect("an answer", func(s lab.Segment) bool { return s.Flags.Has(lab.ACK) && s.Ack-p.iss == 2 })
	if got := c.State(); got != "LAST-ACK" {
		t.Errorf("it is %s, want LAST-ACK", got)
	}
	p.say(lab.ACK, 2, 6, "")
	within(t, 5*time.Second, "the end", func() bool { return c.State() == "CLOSED" })
}

// RFC 9293, 3.10.7.4: what comes in TIME-WAIT and is not acceptable is answered
// with an ACK; a SYN that lies in the window opens nothing older.
func TestTimeWaitAnswersWhatIsNotAcceptable(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box4, mss(1460)...)
	p.say(lab.ACK|lab.PSH, 1, 1, "abc")
	p.expectACK(1, 4)
	read(t, c, 3)
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.FIN|lab.ACK, 4, 2, "")
	p.expectACK(2, 5)
	within(t, 5*time.Second, "TIME-WAIT", func() bool { return b.States()["TIME-WAIT"] == 1 })
	for name, s := range map[string]lab.Craft{
		"data far ahead": p.craft(lab.ACK|lab.PSH, 1<<30, 2, "far"),
		"an older SYN":   p.craft(lab.SYN, 2, 0, ""),
		"old data":       p.craft(lab.ACK|lab.PSH, 1, 1, "abc"),
	} {
		p.send(s)
		if a := p.expect("an answer to "+name, anything); a.Flags != lab.ACK || a.Ack-p.iss != 5 || a.Seq-p.irs != 2 {
			t.Errorf("%s gets %v", name, a)
		}
	}
	if got := b.States()["TIME-WAIT"]; got != 1 {
		t.Errorf("%d are in TIME-WAIT, want 1", got)
	}
}

// RFC 9293, 3.10.7.4: a segment that is not acceptable in SYN-RECEIVED is
// answered and ends no handshake.
func TestASegmentOutsideTheWindowEndsNoHandshake(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.irs = p.expect("SYN-ACK", isSYNACK).Seq
	p.say(lab.ACK, 1<<30, 1, "")
	p.say(lab.RST, 1<<30, 0, "")
	p.expectNothing("a reset", isRST)
	p.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := read(t, accept(t, l), 3); got != "abc" {
		t.Errorf("read %q", got)
	}
}

// RFC 9293, 3.10.7.4: data that arrive before the ACK of the handshake are not
// lost, nor are those with it when the ACK itself was lost.
func TestDataAfterALostHandshakeACKOpenTheConnection(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box6)
	p := b.peer(t, box6, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.irs = p.expect("SYN-ACK", isSYNACK).Seq
	p.say(lab.ACK|lab.PSH, 4, 1, "def") // the second segment overtakes the first
	p.say(lab.ACK|lab.PSH, 1, 1, "abc")
	c := accept(t, l)
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("read %q", got)
	}
	p.say(lab.ACK|lab.PSH, 4, 1, "def") // again, if it was dropped
	if got := read(t, c, 3); got != "def" {
		t.Errorf("read %q", got)
	}
}

// RFC 9293, 3.5.1 (figure 10): a peer that has forgotten the connection learns of
// it from the answer to its SYN, resets it, and may begin anew.
func TestAPeerThatHasForgottenTheConnectionBeginsAnew(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.handshake(mss(1460)...)
	old := accept(t, l)
	p.iss += 500_000_000
	p.say(lab.SYN, 0, 0, "")
	s := p.expect("a challenge", func(s lab.Segment) bool { return s.Flags == lab.ACK })
	rst := p.craft(lab.RST, 0, 0, "")
	rst.Seq = s.Ack
	p.send(rst)
	within(t, 5*time.Second, "the reset", func() bool { return old.State() == "CLOSED" })
	old.Abort()
	p.handshake(mss(1460)...)
	p.say(lab.ACK|lab.PSH, 1, 1, "new")
	if got := read(t, accept(t, l), 3); got != "new" {
		t.Errorf("read %q", got)
	}
}

// The same in SYN-RECEIVED: the second SYN is outside the window and answered
// with an ACK that lets the peer reset the first.
func TestAPeerThatHasForgottenItsSYNBeginsAnew(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.expect("SYN-ACK", isSYNACK)
	first := p.iss
	p.iss += 500_000_000
	p.say(lab.SYN, 0, 0, "")
	// The SYN-ACK is repeated after a second: the answer comes before.
	s, came := p.next(anything, 700*time.Millisecond)
	seen := ""
	switch {
	case !came:
		seen = "the second SYN gets no answer"
	case s.Flags.Has(lab.SYN) && s.Ack == p.iss+1: // the older attempt was given up at once
		p.irs = s.Seq
		p.say(lab.ACK, 1, 1, "")
		accept(t, l)
	case !s.Flags.Has(lab.ACK) || s.Ack != first+1:
		seen = fmt.Sprintf("the second SYN gets %v", s)
	default:
		rst := p.craft(lab.RST, 0, 0, "")
		rst.Seq = s.Ack
		p.send(rst)
		p.handshake(mss(1460)...)
		accept(t, l)
	}
	holds(t, seen)
}

// RFC 9293, 3.8.4: a keepalive probe of the peer's is answered, with a byte of
// garbage or without.
func TestAKeepaliveProbeOfThePeerIsAnswered(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{"empty": "", "one byte": "?"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := newBox(t, nil).open(t, box6, mss(1220)...)
			p.say(lab.RST, 100, 0, "") // its challenge takes nobody's turn
			p.expectACK(1, 1)
			for range 3 {
				p.say(lab.ACK, 0, 1, data)
				p.expectACK(1, 1)
			}
			p.say(lab.ACK|lab.PSH, 1, 1, "abc")
			if got := read(t, c, 3); got != "abc" {
				t.Errorf("read %q", got)
			}
		})
	}
}
