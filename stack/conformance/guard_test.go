package conformance

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
)

// RFC 7323, 5.3 R1: a segment with an old timestamp is dropped and answered.
func TestDataWithAnOldTimestampIsAnsweredAndDropped(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, nil, modern()...)
	h.val += 1000
	h.say(lab.ACK|lab.PSH, 1, 1, "new")
	if got := read(t, c, 3); got != "new" {
		t.Fatalf("heard %q", got)
	}
	h.expectACK(1, 4)
	h.val -= 500
	h.say(lab.ACK|lab.PSH, 4, 1, "old")
	h.expectACK(1, 4)
	h.val += 1000
	h.say(lab.ACK|lab.PSH, 4, 1, "not")
	if got := read(t, c, 3); got != "not" {
		t.Errorf("heard %q, want what came with a newer timestamp", got)
	}
	if got := r.flows.Count.PAWS.Load(); got != 1 {
		t.Errorf("%d are counted, want 1", got)
	}
}

// RFC 7323, 3.2: once agreed, a segment without a timestamp is dropped; RST not.
func TestASegmentWithoutTheAgreedTimestampIsDropped(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil, modern()...)
	h.ts = false
	h.say(lab.ACK|lab.PSH, 1, 1, "bare")
	h.expectNothing("an answer", anything)
	h.ts = true
	h.say(lab.ACK|lab.PSH, 1, 1, "full")
	if got := read(t, c, 4); got != "full" {
		t.Errorf("heard %q", got)
	}
	h.ts = false
	h.say(lab.RST, 5, 0, "")
	within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
}

// RFC 5961, 5.2: the ACK must lie in [SND.UNA - MAX.SND.WND, SND.NXT].
func TestDataWithAnImpossibleACKIsAnsweredAndDropped(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, nil)
	write(t, c, "hello")
	h.expect("hello", func(s lab.Segment) bool { return s.Len == 5 })
	h.say(lab.ACK, 1, 6, "")
	for i, ack := range []uint32{7, 1 << 20, 1 << 30, ^uint32(0) - 1<<20} {
		h.say(lab.ACK|lab.PSH, 1, ack, "evil")
		h.expectACK(6, 1)
		if got := r.flows.Count.BadACK.Load(); got != uint64(i+1) {
			t.Errorf("%d are counted, want %d", got, i+1)
		}
	}
	h.say(lab.ACK|lab.PSH, 1, 1, "good") // an old ACK within the window
	if got := read(t, c, 4); got != "good" {
		t.Errorf("heard %q", got)
	}
}

// RFC 9293, 3.10.7.4, fifth check: without ACK the segment is dropped.
func TestDataWithoutACKIsDropped(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.PSH, 1, 0, "evil")
	h.expectNothing("an answer", anything)
	h.say(lab.ACK|lab.PSH, 1, 1, "good")
	if got := read(t, c, 4); got != "good" {
		t.Errorf("heard %q", got)
	}
}

// RFC 5961, 3.2 and 4.2: blind RSTs and SYNs get a challenge or nothing.
func TestBlindResetsAndSYNsEndNothing(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.RST, 1<<30, 0, "") // outside the window
	h.expectNothing("an answer", anything)
	h.say(lab.RST, 100, 0, "") // inside
	h.expectACK(1, 1)
	time.Sleep(600 * time.Millisecond) // gVisor answers one in 500 ms
	h.say(lab.SYN, 50, 0, "")
	h.expectACK(1, 1)
	h.say(lab.ACK|lab.PSH, 1, 1, "still here")
	if got := read(t, c, 10); got != "still here" {
		t.Errorf("heard %q", got)
	}
	h.say(lab.RST, 11, 0, "") // exact
	within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
}

// RFC 5961, 7: challenge ACKs are limited.
func TestAnswersToWhatIsRefusedAreLimited(t *testing.T) {
	t.Parallel()
	r, h, _ := met(t, nil)
	for range 500 {
		h.say(lab.ACK|lab.PSH, 1, 1<<20, "evil")
	}
	within(t, 5*time.Second, "all seen", func() bool { return r.flows.Count.BadACK.Load() == 500 })
	if got := r.flows.Count.Challenges.Load(); got == 0 || got > 30 {
		t.Errorf("%d of 500 were answered, want ten a second", got)
	}
}

// RFC 5927, 4.1 and 7: an ICMP error is believed if it quotes what was sent,
// and its MTU if it is no lower than Linux takes.
func TestOnlyAWellFoundedICMPErrorIsBelieved(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, nil, option(2, 5, 0xb4)...)
	router := netip.MustParseAddr("10.9.0.99")
	write(t, c, string(make([]byte, 1200)))
	first := h.expect("data", func(s lab.Segment) bool { return s.Len == 1200 })
	quoted := lab.Craft{SrcMAC: h.b.mac, DstMAC: h.b.peerMAC, Src: h.to, Dst: h.from, Flags: lab.ACK, Seq: first.Seq, Ack: first.Ack, Win: 1}
	foreign := quoted
	foreign.Seq += 100_000
	h.frame(foreign.Unreachable(router, 4, 900))
	h.frame(quoted.Unreachable(router, 4, 300))
	within(t, 5*time.Second, "both refused", func() bool { return r.flows.Count.ICMP.Load() == 2 })
	h.say(lab.ACK, 1, 1201, "")
	write(t, c, string(make([]byte, 1200)))
	second := h.expect("data", func(s lab.Segment) bool { return s.Seq == first.Seq+1200 })
	if second.Len != 1200 {
		t.Errorf("after forged errors a segment has %d bytes, want 1200", second.Len)
	}
	quoted.Seq = second.Seq
	h.frame(quoted.Unreachable(router, 4, 900))
	smaller := h.expect("smaller data", hasData)
	if smaller.Len > 860 {
		t.Errorf("after an MTU of 900 a segment has %d bytes", smaller.Len)
	}
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("it is %s", got)
	}
}

// RFC 1337 and RFC 9293, 3.10.7.4: what comes in TIME-WAIT.
func TestTimeWaitAnswersWhatIsOldAndIgnoresRST(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, nil, modern()...)
	closeWrite(t, c)
	h.expect("FIN", isFIN)
	h.say(lab.ACK, 1, 2, "")
	h.say(lab.FIN|lab.ACK, 1, 2, "")
	h.expectACK(2, 2)
	within(t, 5*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
	h.say(lab.RST, 2, 0, "")
	h.say(lab.FIN|lab.ACK, 1, 2, "") // again
	h.expectACK(2, 2)
	h.say(lab.ACK|lab.PSH, 1, 2, "x") // old data
	h.expectACK(2, 2)
	h.say(lab.ACK, 2, 2, "") // nothing to say to that
	h.expectNothing("an answer to an ACK", anything)
	h.ts = false
	h.say(lab.SYN, 0, 0, "") // an old SYN
	h.expectACK(2, 2)
	if got := r.States()["TIME-WAIT"]; got != 1 {
		t.Errorf("%v, want one in TIME-WAIT", r.States())
	}
	if l := c.Life(); l.PeerFinAgain != 1 {
		t.Errorf("the FIN came again %d times, want once", l.PeerFinAgain)
	}
}

// RFC 6191 and RFC 9293, 3.6.1: a newer SYN opens a new connection, in which
// nothing of the old one counts.
func TestANewerSYNReopensTimeWaitAndOldSegmentsDoNotTouchIt(t *testing.T) {
	t.Parallel()
	for _, stamped := range []bool{false, true} {
		r := newBox(t, nil)
		l := r.listen(t, box4)
		h := r.peer(t, box4, 5000)
		var options []byte
		if stamped {
			options = modern()
		}
		h.handshake(options...)
		c := accept(t, l)
		closeWrite(t, c)
		h.expect("FIN", isFIN)
		h.say(lab.FIN|lab.ACK, 1, 2, "")
		h.expectACK(2, 2)
		within(t, 5*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
		old := *h
		h.iss += 10
		if stamped {
			h.iss -= 10_000 // its number is older, its timestamp newer
			options = append(modern()[:11:11], stamp(peerTS+5000, 0)...)
			h.val = peerTS + 5000
		}
		h.handshake(options...)
		again := accept(t, l)
		old.say(lab.FIN|lab.ACK, 1, 2, "")
		old.say(lab.ACK|lab.PSH, 1, 2, "old")
		old.say(lab.RST, 2, 0, "")
		h.say(lab.ACK|lab.PSH, 1, 1, "new")
		if got := read(t, again, 3); got != "new" {
			t.Errorf("heard %q", got)
		}
		if got := again.State(); got != "ESTABLISHED" {
			t.Errorf("the new connection is %s", got)
		}
	}
}

// The bounds of the closing states: a peer that acknowledges nothing.
func TestClosingStatesEndWhenTheirBoundIsReached(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) {
		p.FinWait1, p.LastAck, p.CloseWait, p.Closing = 700*time.Millisecond, 700*time.Millisecond, 700*time.Millisecond, 700*time.Millisecond
	}
	for _, s := range []struct {
		state string
		reach func(h *peer, c interface{ CloseWrite() error })
	}{
		{"FIN-WAIT-1", func(h *peer, c interface{ CloseWrite() error }) { closeWrite(t, c) }},
		{"CLOSE-WAIT", func(h *peer, c interface{ CloseWrite() error }) { h.say(lab.FIN|lab.ACK, 1, 1, "") }},
		{"LAST-ACK", func(h *peer, c interface{ CloseWrite() error }) {
			h.say(lab.FIN|lab.ACK, 1, 1, "")
			h.expectACK(1, 2)
			closeWrite(t, c)
		}},
		{"CLOSING", func(h *peer, c interface{ CloseWrite() error }) {
			closeWrite(t, c)
			h.expect("FIN", isFIN)
			h.say(lab.FIN|lab.ACK, 1, 1, "")
		}},
	} {
		t.Run(s.state, func(t *testing.T) {
			t.Parallel()
			_, h, c := met(t, p)
			s.reach(h, c)
			within(t, 5*time.Second, s.state, isState(c, s.state))
			begin := time.Now()
			h.expect("RST", isRST)
			if took := time.Since(begin); took < 400*time.Millisecond || took > 3*time.Second {
				t.Errorf("reset after %v, want 700 ms", took)
			}
			if err := c.Established(); err == nil || c.Life().EndedBy == "" {
				t.Errorf("it ended by %q: %v", c.Life().EndedBy, err)
			}
		})
	}
}

// RFC 9293, 3.8.6.1: a closed window is probed, and answered probes keep it
// alive only for as long as zero_window says.
func TestAWindowThatStaysClosedIsProbedUntilTheBound(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) { p.ZeroWindow = 1500 * time.Millisecond }
	_, h, c := met(t, p)
	h.win = 0
	h.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the closed window", func() bool { return c.Life().ZeroWindow > 0 })
	write(t, c, "waiting")
	begin := time.Now()
	probes := 0
	s := h.expect("RST", func(s lab.Segment) bool {
		if s.Flags.Has(lab.RST) {
			return true
		}
		probes++
		h.say(lab.ACK, 1, 1, "")
		return false
	})
	if took := time.Since(begin); took < time.Second || took > 4*time.Second {
		t.Errorf("reset after %v, want 1.5 s", took)
	}
	if probes == 0 || !s.Flags.Has(lab.RST) {
		t.Errorf("%d probes came before the reset", probes)
	}
	h.expectNothing("something after the reset", anything) // the table's timers go on, and it still knows
	if got := c.Life().EndedBy; got != "zero_window" {
		t.Errorf("it ended by %q, want zero_window", got)
	}
}

// A connection that was let go of with bytes to send, to a peer whose window
// stays closed and who answers each probe, does not live for ever.
func TestAnOrphanBeforeAClosedWindowIsEnded(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) { p.ZeroWindow, p.UserTimeout = 1500*time.Millisecond, config.Off }
	r, h, c := met(t, p)
	h.win = 0
	h.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the closed window", func() bool { return c.Life().ZeroWindow > 0 })
	write(t, c, "never taken")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	h.expect("RST", func(s lab.Segment) bool {
		if !s.Flags.Has(lab.RST) {
			h.say(lab.ACK, 1, 1, "")
		}
		return s.Flags.Has(lab.RST)
	})
	within(t, 5*time.Second, "nothing left", func() bool { return len(r.States()) == 0 && r.flows.Len() == 0 })
}
