package conformance

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack"
)

// SHLD-31, MUST-58, MUST-59, MUST-40: what comes too early is kept and answered
// at once; when the gap closes, one ACK covers all.
func TestDataOutOfOrderIsKeptAndAcknowledgedTogether(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.ACK|lab.PSH, 7, 1, "ghi")
	h.expectACK(1, 1)
	h.say(lab.ACK|lab.PSH, 4, 1, "def")
	h.expectACK(1, 1)
	begin := time.Now()
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	h.expectACK(1, 10)
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("the ACK took %v", took)
	}
	if got := read(t, c, 9); got != "abcdefghi" {
		t.Errorf("heard %q", got)
	}
}

func TestDataThatOverlapsIsReadOnce(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.ACK|lab.PSH, 1, 1, "abcd")
	h.say(lab.ACK|lab.PSH, 3, 1, "cdef")
	h.say(lab.ACK|lab.PSH, 1, 1, "abcdefgh")
	if got := read(t, c, 8); got != "abcdefgh" {
		t.Errorf("heard %q", got)
	}
}

// RFC 9293, 3.4 and 3.10.7.4: a segment outside the window is answered and dropped.
func TestDataOutsideTheWindowIsAnsweredAndDropped(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.ACK|lab.PSH, 50_000_000, 1, "far")
	h.expectACK(1, 1)
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("heard %q", got)
	}
	h.expectACK(1, 4)
	time.Sleep(600 * time.Millisecond)  // one in 500 ms is answered
	h.say(lab.ACK|lab.PSH, 1, 1, "abc") // again: our ACK may have been lost
	h.expectACK(1, 4)
	time.Sleep(600 * time.Millisecond)
	h.say(lab.ACK, 0, 1, "") // a keepalive probe (RFC 9293, 3.8.4)
	h.expectACK(1, 4)
	time.Sleep(600 * time.Millisecond)
	h.win = 30000 // and one that has another window
	h.say(lab.ACK, 0, 1, "")
	h.expectACK(1, 4)
}

// MUST-60, MUST-61, MUST-17: what is written leaves at once, with PSH at its end.
func TestWhatIsWrittenLeavesAtOnceWithPSH(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	for i, text := range []string{"a", "bc", "def"} {
		write(t, c, text)
		s := h.expect("data", hasData)
		if string(s.Payload) != text || !s.Flags.Has(lab.PSH) {
			t.Errorf("write %d leaves as %v %q, want %q with PSH, though nothing is acknowledged", i, s, s.Payload, text)
		}
	}
}

// MUST-19, MUST-18, RFC 6298, 5.5 and 3: each repetition waits twice as long,
// and an ACK of what was repeated measures nothing.
func TestRepetitionsBackOffAndMeasureNothing(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) { p.Retransmit.LossDetection = "sack" }
	_, h, c := met(t, p)
	before, rto := c.Info().RTT, c.Info().RTO
	write(t, c, "lost")
	h.expect("data", hasData)
	var times []time.Time
	for range 4 {
		s := h.expect("the data again", hasData)
		if s.Seq != h.irs+1 || s.Len != 4 {
			t.Fatalf("got %v", s)
		}
		times = append(times, s.Time)
	}
	// 2 + 4 + 8 of them. In all, because one that a busy machine makes late is
	// followed by one that seems early.
	between(t, "the fourth repetition comes behind the first", times[3].Sub(times[0]), 10*rto, 22*rto)
	h.say(lab.ACK, 1, 5, "")
	within(t, 5*time.Second, "the ACK taken", func() bool { return c.Info().Unacked == 0 })
	if after := c.Info().RTT; after > before+100*time.Millisecond { // measured, it would be an eighth of three seconds more
		t.Errorf("a round trip of %v was measured by an ACK of what was repeated; it was %v", after, before)
	}
}

// MUST-19 (RFC 5681, 3.1; RFC 6928): at first no more than ten segments.
func TestTheFirstFlightIsTenSegmentsAndGrowsWithACKs(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil, append(option(2, 5, 0xb4), option(3, 7)...)...)
	h.win = 60000
	h.say(lab.ACK, 1, 1, "")
	write(t, c, strings.Repeat("x", 200_000))
	flight := func() (bytes uint32) {
		for {
			s, ok := h.next(hasData, 100*time.Millisecond)
			if !ok {
				return bytes
			}
			bytes = max(bytes, s.Seq+uint32(s.Len)-h.irs-1)
		}
	}
	first := flight()
	if first > 10*1460 || first < 4*1000 {
		t.Errorf("the first flight has %d bytes, want at most ten segments", first)
	}
	h.say(lab.ACK, 1, 1+first, "")
	if second := flight() - first; second <= first || second > 2*first+2*1460 {
		t.Errorf("the second flight has %d bytes after %d, want up to twice as many", second, first)
	}
}

// RFC 5681, 3.2: three duplicate ACKs repeat the segment before its timeout.
func TestThreeDuplicateACKsRepeatTheLostSegment(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) { p.Retransmit.MinRTO, p.Retransmit.LossDetection = 3*time.Second, "sack" }
	_, h, c := met(t, p, option(2, 3, 0xe8)...)
	write(t, c, strings.Repeat("x", 6000))
	first := h.expect("data", hasData)
	for range 3 {
		h.expect("data", hasData)
	}
	// The first arrives, the second is lost.
	lost := first.Seq + uint32(first.Len)
	begin := time.Now()
	for range 4 {
		h.say(lab.ACK, 1, lost-h.irs, "")
	}
	h.expect("the lost one again", func(s lab.Segment) bool { return s.Seq == lost && s.Len > 0 })
	if took := time.Since(begin); took > 2500*time.Millisecond {
		t.Errorf("it took %v, and the timeout is 3 s", took)
	}
}

// MUST-34, SHLD-15, SHLD-16: a window that shrinks confuses nobody.
func TestAShrinkingWindowIsSurvived(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil, option(2, 3, 0xe8)...)
	text := strings.Repeat("0123456789", 800)
	write(t, c, text)
	h.expect("data", hasData)
	h.win = 0
	h.say(lab.ACK, 1, 1001, "") // the right edge moves to the left
	within(t, 5*time.Second, "the window closed", func() bool { return c.Info().SndWnd == 0 })
	h.win = 65535
	h.say(lab.ACK, 1, 1001, "")
	got := make([]byte, len(text))
	for next := uint32(1000); next < uint32(len(text)); {
		s := h.expect("the rest", hasData)
		at := s.Seq - h.irs - 1
		copy(got[at:], s.Payload)
		if at <= next {
			next = max(next, at+uint32(s.Len))
		}
		h.say(lab.ACK, 1, 1+next, "")
	}
	if string(got[1000:]) != text[1000:] {
		t.Error("the rest is not what was written")
	}
}

// MUST-39, MUST-66: who reads a little does not open the window a little, and a
// closed window keeps no RST out.
func TestAClosedWindowOpensOnlyForGoodAndLetsRSTIn(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	sent := h.fill(1460)
	h.say(lab.ACK|lab.PSH, 1+sent, 1, "y") // a probe
	if s := h.expect("the answer to a probe", func(s lab.Segment) bool { return s.Flags.Has(lab.ACK) }); s.Win != 0 || s.Ack != h.iss+1+sent {
		t.Errorf("a probe into the closed window gets %v", s)
	}
	read(t, c, 10)
	h.expectNothing("a window of crumbs", func(s lab.Segment) bool { return s.Win > 0 && s.Win < 1000 })
	h.say(lab.RST, 1+sent, 0, "")
	within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
}

// MUST-1: a window of over 32 KiB is a large one, not a negative one.
func TestAWindowIsAnUnsignedNumber(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.win = 0xffff
	h.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the window", func() bool { return c.Info().SndWnd == 0xffff })
	write(t, c, "data")
	h.expect("data", hasData)
}

// MUST-47, MUST-54, MUST-55, MUST-56, SHLD-25: no ICMP error ends an established
// connection; the connection tells of the last one until the peer acknowledges
// something new.
func TestNoICMPErrorEndsAConnection(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	write(t, c, "data")
	s := h.expect("data", hasData)
	quoted := lab.Craft{SrcMAC: h.b.mac, DstMAC: h.b.peerMAC, Src: h.to, Dst: h.from, Flags: lab.ACK, Seq: s.Seq, Ack: s.Ack}
	for _, e := range [][2]byte{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 5}, {4, 0}, {11, 0}, {11, 1}, {12, 0}} {
		h.frame(quoted.ICMP4(netip.MustParseAddr("10.9.0.99"), e[0], e[1]))
	}
	within(t, 5*time.Second, "the last is told", func() bool { return c.Life().Hint == tcpinfo.ParameterProblem })
	h.say(lab.ACK|lab.PSH, 1, 5, "alive")
	if got := read(t, c, 5); got != "alive" {
		t.Errorf("heard %q", got)
	}
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("it is %s", got)
	}
	if got := c.Life().Hint; got != "" {
		t.Errorf("after an ACK it still tells %q", got)
	}
}

// RFC 7323, 3.2 and 4.3: a timestamp in every segment, which echoes the latest
// that came in order.
func TestTimestampsAreInEverySegmentAndEchoWhatCameInOrder(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil, modern()...)
	echo := func(s lab.Segment) uint32 {
		t.Helper()
		data, found := optionOf(s, 8)
		if !found {
			t.Errorf("no timestamp in %v", s)
			return 0
		}
		return binary.BigEndian.Uint32(data[4:])
	}
	h.val = peerTS + 100
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := echo(h.expect("ACK", anything)); got != peerTS+100 {
		t.Errorf("the ACK echoes %d, want %d", got, peerTS+100)
	}
	h.val = peerTS + 200
	h.say(lab.ACK|lab.PSH, 7, 1, "ghi") // too early
	if got := echo(h.expect("ACK", anything)); got != peerTS+100 {
		t.Errorf("the ACK of what came too early echoes %d, want %d", got, peerTS+100)
	}
	h.val = peerTS + 300
	h.say(lab.ACK|lab.PSH, 4, 1, "def")
	if got := echo(h.expect("ACK", anything)); got != peerTS+300 {
		t.Errorf("the ACK of what filled the gap echoes %d, want %d", got, peerTS+300)
	}
	write(t, c, "data")
	if got := echo(h.expect("data", hasData)); got != peerTS+300 {
		t.Errorf("data echo %d, want %d", got, peerTS+300)
	}
	closeWrite(t, c)
	echo(h.expect("FIN", isFIN))
}

// RFC 2018, 4: what was kept is told, the latest first; without the option in
// both SYNs never.
func TestSACKTellsWhatWasKept(t *testing.T) {
	t.Parallel()
	_, h, _ := met(t, nil, append(option(2, 5, 0xb4), option(4)...)...)
	h.say(lab.ACK|lab.PSH, 11, 1, "klm")
	s := h.expect("ACK", anything)
	data, found := optionOf(s, 5)
	if !found || len(data) != 8 || binary.BigEndian.Uint32(data) != h.iss+11 || binary.BigEndian.Uint32(data[4:]) != h.iss+14 {
		t.Errorf("SACK %x, want one block 11 to 14", data)
	}
	_, plain, _ := met(t, nil)
	plain.say(lab.ACK|lab.PSH, 11, 1, "klm")
	if _, found := optionOf(plain.expect("ACK", anything), 5); found {
		t.Error("SACK without having agreed on it")
	}
}

// SHLD-12, MUST-24, MUST-26, MUST-27: a keepalive probe has no data and lies
// before what is next; it comes only when the connection is idle.
func TestAKeepaliveProbeHasNoDataAndComesWhenIdle(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: time.Second, Interval: time.Second, Probes: 5}
	}
	_, h, c := met(t, p)
	begin := time.Now()
	s := h.expect("a probe", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Seq == h.irs })
	if took := time.Since(begin); s.Len > 1 || took < 700*time.Millisecond {
		t.Errorf("after %v came %v, want a probe without data after 1 s", took, s)
	}
	h.say(lab.ACK, 1, 1, "")
	h.expect("the next probe", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Seq == h.irs })
	h.say(lab.ACK, 1, 1, "")
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("a peer that answers is %s", got)
	}
}

// FIN with data, FIN before its turn, data after FIN (RFC 9293, 3.10.7.4).
func TestFINsWithDataAndBeforeTheirTurn(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	h.say(lab.FIN|lab.ACK|lab.PSH, 4, 1, "def") // before its turn, with data
	h.expectACK(1, 1)
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("with bytes missing before the FIN it is %s", got)
	}
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	h.expectACK(1, 8)
	if got := read(t, c, 6); got != "abcdef" {
		t.Errorf("heard %q", got)
	}
	if err := ending(t, c); err != io.EOF {
		t.Errorf("then %v, want %v", err, io.EOF)
	}
	if got := c.State(); got != "CLOSE-WAIT" {
		t.Errorf("it is %s, want CLOSE-WAIT", got)
	}
	h.say(lab.ACK|lab.PSH, 8, 1, "behind the FIN")
	write(t, c, "the other way")
	h.expect("data", hasData)
	if _, err := c.TryRead(make([]byte, 10)); err != io.EOF {
		t.Errorf("what comes behind a FIN is read: %v", err)
	}
}

// FIN-WAIT-2 still takes data; a FIN that crosses ours goes to CLOSING.
func TestDataStillComesAfterOurFIN(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	closeWrite(t, c)
	s := h.expect("FIN", isFIN)
	if s.Seq != h.irs+1 {
		t.Errorf("our FIN is at %d", s.Seq-h.irs)
	}
	h.say(lab.ACK|lab.PSH, 1, 1, "in FIN-WAIT-1")
	if got := read(t, c, 13); got != "in FIN-WAIT-1" {
		t.Errorf("heard %q", got)
	}
	h.say(lab.ACK|lab.PSH, 14, 2, "in FIN-WAIT-2")
	if got := read(t, c, 13); got != "in FIN-WAIT-2" {
		t.Errorf("heard %q", got)
	}
	if got := c.State(); got != "FIN-WAIT-2" {
		t.Errorf("it is %s, want FIN-WAIT-2", got)
	}
	h.say(lab.FIN|lab.ACK, 27, 2, "")
	h.expect("the last ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Ack == h.iss+28 && s.Seq == h.irs+2 })
	within(t, 5*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
}

// RFC 9293, 3.10.7.4, second check: an exact RST ends every state at once.
func TestAnExactRSTEndsEveryClosingState(t *testing.T) {
	t.Parallel()
	for state, reach := range map[string]func(*peer, *stack.Conn) (seq uint32){
		"FIN-WAIT-1": func(h *peer, c *stack.Conn) uint32 { closeWrite(h.T, c); return 1 },
		"FIN-WAIT-2": func(h *peer, c *stack.Conn) uint32 {
			closeWrite(h.T, c)
			h.expect("FIN", isFIN)
			h.say(lab.ACK, 1, 2, "")
			return 1
		},
		"CLOSE-WAIT": func(h *peer, c *stack.Conn) uint32 { h.say(lab.FIN|lab.ACK, 1, 1, ""); return 2 },
		"CLOSING": func(h *peer, c *stack.Conn) uint32 {
			closeWrite(h.T, c)
			h.expect("FIN", isFIN)
			h.say(lab.FIN|lab.ACK, 1, 1, "")
			return 2
		},
		"LAST-ACK": func(h *peer, c *stack.Conn) uint32 {
			h.say(lab.FIN|lab.ACK, 1, 1, "")
			h.expectACK(1, 2)
			closeWrite(h.T, c)
			return 2
		},
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			r, h, c := met(t, nil)
			seq := reach(h, c)
			within(t, 5*time.Second, state, isState(c, state))
			h.say(lab.RST, seq, 0, "")
			within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
			if err := c.Established(); !errors.Is(err, syscall.ECONNRESET) && state != "LAST-ACK" && state != "CLOSING" {
				t.Errorf("it is told %v, want %v", err, syscall.ECONNRESET)
			}
			c.Abort()
			within(t, 5*time.Second, "the flow forgotten", func() bool { return r.flows.Len() == 0 })
		})
	}
}

// RFC 9293, 3.10.7.4: a SYN that comes again in SYN-RECEIVED gets its SYN-ACK or
// an ACK again, and one with data loses nothing.
func TestASYNThatComesAgainIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	l := r.listen(t, box4)
	h := r.peer(t, box4, 5000)
	c := h.craft(lab.SYN, 0, 0, "abc") // data in a SYN may be dropped, and come again
	h.send(c)
	h.irs = h.expect("SYN-ACK", isSYNACK).Seq
	h.send(c)
	h.expect("an answer", func(s lab.Segment) bool { return s.Flags.Has(lab.ACK) && s.Ack == h.iss+1 })
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := read(t, accept(t, l), 3); got != "abc" {
		t.Errorf("heard %q", got)
	}
}

// MUST-10: both ends have sent a SYN; a SYN-ACK or an ACK completes it.
func TestCrossingSYNsMakeOneConnection(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]lab.Flags{"ACK": lab.ACK, "SYN-ACK": lab.SYN | lab.ACK} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newBox(t, nil)
			h := r.peer(t, box4, 7000)
			c, _ := r.dial(t, h)
			h.say(lab.SYN, 0, 0, "")
			s := h.expect("SYN-ACK", isSYNACK)
			if s.Seq != h.irs || s.Ack != h.iss+1 {
				t.Errorf("the crossing SYN is answered with %v", s)
			}
			seq := uint32(1)
			if last.Has(lab.SYN) {
				seq = 0
			}
			h.say(last, seq, 1, "")
			if err := await(t, c, c.Established); err != nil {
				t.Fatal(err)
			}
			write(t, c, "one")
			h.expect("data", hasData)
		})
	}
}

// MUST-48, MUST-49, SHLD-22: the DS field and the TTL are those of the policy.
func TestTheIPHeaderCarriesWhatThePolicySays(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) { p.DSCP, p.TTL = 46, 17 }
	_, h, c := met(t, p)
	write(t, c, "data")
	s := h.expect("data", hasData)
	if ip := s.Frame[14:]; ip[1] != 46<<2 || ip[8] != 17 {
		t.Errorf("DS field %#x and TTL %d, want %#x and 17", ip[1], ip[8], 46<<2)
	}
	_, plain, d := met(t, nil)
	write(t, d, "data")
	if ip := plain.expect("data", hasData).Frame[14:]; ip[1] != 0 || ip[8] != 64 {
		t.Errorf("without them DS field %#x and TTL %d, want 0 and 64", ip[1], ip[8])
	}
}

// The same of what the flow table says by itself: a challenge, a probe, the ACK
// of a FIN that comes again in TIME-WAIT.
func TestWhatTheTableSaysCarriesWhatThePolicySays(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, func(p *config.Policy) { p.DSCP, p.TTL = 46, 17 })
			p, c := b.open(t, at)
			marked := func(what string, s lab.Segment) {
				t.Helper()
				ip := s.Frame[14:]
				ds, ttl := ip[1], ip[8]
				if at.Is6() {
					ds, ttl = ip[0]<<4|ip[1]>>4, ip[7]
				}
				if ds != 46<<2 || ttl != 17 || !s.Complete {
					t.Errorf("%s has DS field %#x, TTL %d and a right checksum: %v, want %#x, 17 and true", what, ds, ttl, s.Complete, 46<<2)
				}
			}
			p.say(lab.SYN, 500, 0, "")
			marked("a challenge", p.expectACK(1, 1))
			b.flows.Probe(c.LocalAddr(), c.RemoteAddr(), c.ID(), func(tcpinfo.Probe) {})
			marked("a probe", p.expectACK(0, 1))
			closeWrite(t, c)
			p.expect("FIN", isFIN)
			p.say(lab.FIN|lab.ACK, 1, 2, "")
			p.expectACK(2, 2)
			within(t, 5*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
			p.say(lab.FIN|lab.ACK, 1, 2, "")
			marked("the ACK of a FIN in TIME-WAIT", p.expectACK(2, 2))
		})
	}
}

// MUST-9: the same two ends start elsewhere on another box: a secret is in it.
func TestInitialSequenceNumbersHoldASecret(t *testing.T) {
	t.Parallel()
	_, a, _ := met(t, nil)
	_, b, _ := met(t, nil)
	if d := int32(a.irs - b.irs); d > -1<<20 && d < 1<<20 {
		t.Errorf("two boxes start at %d and %d for the same ends", a.irs, b.irs)
	}
}

// MUST-31: urgent data of any length are data like others.
func TestUrgentDataAreReadInLine(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	text := strings.Repeat("urgent", 200)
	s := h.craft(lab.ACK|lab.PSH|lab.URG, 1, 1, text)
	s.Urgent = uint16(len(text))
	h.send(s)
	h.say(lab.ACK|lab.PSH, uint32(1+len(text)), 1, "plain")
	if got := read(t, c, len(text)+5); got != text+"plain" {
		t.Errorf("heard %d bytes that are not what was sent", len(got))
	}
}

// MUST-37: a window may stay closed as long as probes are answered, if the policy
// sets no bound.
func TestAClosedWindowIsWaitedForWhenThePolicySaysSo(t *testing.T) {
	t.Parallel()
	p := func(p *config.Policy) {
		p.ZeroWindow, p.UserTimeout = config.Off, config.Off
		p.Retransmit = config.Retransmit{MinRTO: 100 * time.Millisecond, MaxRTO: 150 * time.Millisecond, MaxRetries: 3, SynRetries: 2, LossDetection: "sack"}
	}
	_, h, c := met(t, p)
	h.win = 0
	h.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the closed window", func() bool { return c.Life().ZeroWindow > 0 })
	write(t, c, "waiting")
	for range 7 { // more than twice max_retries
		h.expect("a probe", func(s lab.Segment) bool { return s.Seq-h.irs <= 1 })
		h.say(lab.ACK, 1, 1, "")
	}
	h.win = 1000
	h.say(lab.ACK, 1, 1, "")
	if s := h.expect("data", func(s lab.Segment) bool { return s.Len == 7 }); string(s.Payload) != "waiting" {
		t.Errorf("heard %q", s.Payload)
	}
}
