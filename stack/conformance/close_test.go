package conformance

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/stack"
)

// SHLD-3: a close with unread data, and data that come after it, get a RST.
func TestDataThatNobodyWillReadAreAnsweredWithRST(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box4, mss(1460)...)
	p.say(lab.ACK|lab.PSH, 1, 1, "unread")
	p.expectACK(1, 7)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	p.expect("RST", isRST)
	p, c = b.open2(t, 5001)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	p.expect("FIN", isFIN)
	p.say(lab.ACK, 1, 2, "")
	p.say(lab.ACK|lab.PSH, 1, 2, "too late")
	p.expect("RST", isRST)
}

// open2 is one more connection to the listener of the box.
func (b *box) open2(t *testing.T, from uint16) (*peer, *stack.Conn) {
	t.Helper()
	l, err := b.Listen(stackAddr(81), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := b.peer(t, box4, from)
	p.to = stackAddr(81)
	p.handshake(mss(1460)...)
	return p, accept(t, l)
}

// MUST-13: who closes first stays in TIME-WAIT for the time the policy sets, and
// a FIN that comes again is acknowledged and starts it anew.
func TestAFINInTimeWaitIsAcknowledgedAndStartsItAnew(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) { p.TimeWait.Duration = 2 * time.Second })
	p, c := b.open(t, box6, mss(1220)...)
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.FIN|lab.ACK, 1, 2, "")
	p.expectACK(2, 2)
	begin := time.Now()
	if _, came := p.next(anything, 1200*time.Millisecond); came {
		t.Error("TIME-WAIT is not silent")
	}
	again := time.Now()
	p.say(lab.FIN|lab.ACK, 1, 2, "")
	p.expectACK(2, 2)
	within(t, 6*time.Second, "the end of TIME-WAIT", func() bool { return b.States()["TIME-WAIT"] == 0 })
	if time.Since(again) < 1700*time.Millisecond || time.Since(begin) < 2900*time.Millisecond {
		t.Errorf("it ended %v after the last FIN, want 2 s", time.Since(again))
	}
}

// RFC 1337: a RST in TIME-WAIT is ignored, in IPv6 as well.
func TestARSTInTimeWaitEndsNothing(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box6, mss(1220)...)
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.FIN|lab.ACK, 1, 2, "")
	p.expectACK(2, 2)
	p.say(lab.RST, 2, 0, "")
	p.say(lab.FIN|lab.ACK, 1, 2, "")
	p.expectACK(2, 2)
	if got := b.States()["TIME-WAIT"]; got != 1 {
		t.Errorf("%d are in TIME-WAIT, want 1", got)
	}
}

// RFC 6191, 2: a SYN in TIME-WAIT whose timestamp is old opens nothing, even if
// its sequence number is newer; it is answered with an ACK.
func TestASYNWithAnOldTimestampDoesNotReopenTimeWait(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box4, append(mss(1460), stamp(peerTS, 0)...)...)
	p.val += 1000
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.FIN|lab.ACK, 1, 2, "")
	p.expectACK(2, 2)
	syn := p.craft(lab.SYN, 1_000_000, 0, "")
	syn.Options = append(mss(1460), stamp(p.val-500, 0)...)
	p.send(syn)
	if s := p.expect("an answer", anything); s.Flags != lab.ACK {
		t.Errorf("an old SYN gets %v, want an ACK", s)
	}
}

// RFC 9293, 3.10.7.4, eighth check: a FIN that comes again after it was
// acknowledged is acknowledged again, and its state stays.
func TestAFINThatComesAgainInCloseWaitIsAcknowledgedAgain(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1460)...)
	p.say(lab.FIN|lab.ACK, 1, 1, "")
	p.expectACK(1, 2)
	p.say(lab.FIN|lab.ACK, 1, 1, "")
	p.expectACK(1, 2)
	if got := c.State(); got != "CLOSE-WAIT" {
		t.Errorf("it is %s, want CLOSE-WAIT", got)
	}
	closeWrite(t, c)
	if s := p.expect("FIN", isFIN); s.Seq-p.irs != 1 || s.Ack-p.iss != 2 {
		t.Errorf("our FIN is %v", s)
	}
	p.say(lab.ACK, 2, 2, "")
	within(t, 5*time.Second, "the end", func() bool { return c.State() == "CLOSED" })
}

// MUST-20, RFC 9293, 3.10.4: our FIN is sent again until it is acknowledged.
func TestALostFINIsSentAgain(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, mss(1220)...)
	closeWrite(t, c)
	first := p.expect("FIN", isFIN)
	if again := p.expect("the FIN again", isFIN); again.Seq != first.Seq {
		t.Errorf("the FIN moves from %d to %d", first.Seq, again.Seq)
	}
	p.say(lab.ACK, 1, 2, "")
	within(t, 5*time.Second, "FIN-WAIT-2", func() bool { return c.State() == "FIN-WAIT-2" })
}

// RFC 9293, 3.10.7.4: crossing FINs go through CLOSING, where data have no
// place, to TIME-WAIT.
func TestCrossingFINsEndInTimeWait(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box6, mss(1220)...)
	closeWrite(t, c)
	p.expect("FIN", isFIN)
	p.say(lab.FIN|lab.ACK, 1, 1, "")
	p.expectACK(2, 2)
	within(t, 5*time.Second, "CLOSING", func() bool { return c.State() == "CLOSING" })
	p.say(lab.ACK, 2, 2, "")
	within(t, 5*time.Second, "TIME-WAIT", func() bool { return c.State() == "TIME-WAIT" })
	p.say(lab.FIN|lab.ACK, 1, 1, "")
	p.expectACK(2, 2)
}

// RFC 9293, 3.10.7.4: the ACK that completes the handshake may bring data and
// FIN at once.
func TestTheLastACKOfAHandshakeMayBringDataAndFIN(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box6)
	p := b.peer(t, box6, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.irs = p.expect("SYN-ACK", isSYNACK).Seq
	p.say(lab.ACK|lab.PSH|lab.FIN, 1, 1, "all")
	c := accept(t, l)
	if got := read(t, c, 3); got != "all" {
		t.Errorf("read %q", got)
	}
	p.expectACK(1, 5)
	within(t, 5*time.Second, "CLOSE-WAIT", func() bool { return c.State() == "CLOSE-WAIT" })
}

// The RSTs of a stop are sent again, also as who has missed the last bytes finds it exact; who finds one not exact is answered.
func TestTheResetsOfAStopAreRepeated(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			p, c := b.open(t, at, modern()...)
			write(t, c, "lost")
			p.expect("data", hasData)
			b.flows.KeepResets()
			c.Abort()
			first := p.expect("RST", isRST)
			done := make(chan int, 1)
			go func() { done <- b.flows.RepeatResets(t.Context(), 2, 200*time.Millisecond) }()
			for range 2 {
				for _, seq := range []uint32{first.Seq, p.irs + 1} {
					if again := p.expect("the RST again", isRST); again.Seq != seq || len(again.Options) == 0 {
						t.Errorf("the second time it is %v, want number %d and what else is in %v", again, seq, first)
					}
				}
			}
			// The data before it were lost: it is not exact for the peer, which says so.
			p.say(lab.ACK, 1, 1, "")
			if exact := p.expect("an exact RST", func(s lab.Segment) bool { return isRST(s) && s.Seq == p.irs+1 }); exact.Seq == first.Seq {
				t.Errorf("got %v", exact)
			}
			if n := <-done; n != 1 {
				t.Errorf("%d connections are told, want one", n)
			}
		})
	}
}
