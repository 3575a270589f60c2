package conformance

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack"
)

// RFC 5961, 4.2: each SYN in a connection gets a challenge, also right after
// another; in every state that has both sequence numbers.
func TestEverySYNOnAConnectionGetsAChallengeInEachState(t *testing.T) {
	t.Parallel()
	for state, reach := range closingStates {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			_, p, c := met(t, nil, modern()...)
			seq, ack := reach(t, p, c)
			within(t, 5*time.Second, state, isState(c, state))
			for _, at := range []uint32{0, 50, 1 << 30} {
				p.say(lab.SYN, at, 0, "")
				p.expectBare(seq, ack)
			}
			p.say(lab.SYN|lab.ACK, 0, 1, "")
			p.expectBare(seq, ack)
			if got := c.State(); got != state {
				t.Errorf("it is %s", got)
			}
			p.say(lab.RST, ack, 0, "")
			within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
		})
	}
}

// closingStates lead a connection to a state, and tell its SND.NXT and RCV.NXT there.
var closingStates = map[string]func(*testing.T, *peer, *stack.Conn) (seq, ack uint32){
	"ESTABLISHED": func(*testing.T, *peer, *stack.Conn) (uint32, uint32) { return 1, 1 },
	"FIN-WAIT-1": func(t *testing.T, p *peer, c *stack.Conn) (uint32, uint32) {
		closeWrite(t, c)
		p.expect("FIN", isFIN)
		return 2, 1
	},
	"FIN-WAIT-2": func(t *testing.T, p *peer, c *stack.Conn) (uint32, uint32) {
		closeWrite(t, c)
		p.expect("FIN", isFIN)
		p.say(lab.ACK, 1, 2, "")
		return 2, 1
	},
	"CLOSE-WAIT": func(t *testing.T, p *peer, c *stack.Conn) (uint32, uint32) {
		p.say(lab.FIN|lab.ACK, 1, 1, "")
		p.expectACK(1, 2)
		return 1, 2
	},
	"CLOSING": func(t *testing.T, p *peer, c *stack.Conn) (uint32, uint32) {
		closeWrite(t, c)
		p.expect("FIN", isFIN)
		p.say(lab.FIN|lab.ACK, 1, 1, "")
		p.expectBare(2, 2)
		return 2, 2
	},
	"LAST-ACK": func(t *testing.T, p *peer, c *stack.Conn) (uint32, uint32) {
		p.say(lab.FIN|lab.ACK, 1, 1, "")
		p.expectACK(1, 2)
		closeWrite(t, c)
		p.expect("FIN", isFIN)
		return 2, 2
	},
}

// expectBare waits for an ACK without FIN that tells where the box is: between
// them a FIN may come again.
func (p *peer) expectBare(seq, ack uint32) {
	p.Helper()
	p.expect("ACK", func(s lab.Segment) bool {
		if s.Flags.Has(lab.RST) {
			p.Errorf("a reset came: %v", s)
		}
		return s.Flags == lab.ACK && s.Len == 0 && s.Seq-p.irs == seq && s.Ack-p.iss == ack
	})
}

// RFC 9293, 3.10.7.4, seventh and eighth check: what comes behind the peer's FIN
// is ignored, and ends nothing.
func TestWhatComesBehindAFINIsIgnored(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"CLOSE-WAIT", "CLOSING", "LAST-ACK"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			r, p, c := met(t, nil, modern()...)
			seq, ack := closingStates[state](t, p, c)
			within(t, 5*time.Second, state, isState(c, state))
			p.say(lab.ACK|lab.PSH, ack, 1, "behind")
			p.expectBare(seq, ack)
			p.say(lab.ACK|lab.FIN, ack, 1, "")
			p.expectBare(seq, ack)
			if got := r.flows.Count.BehindFIN.Load(); got != 2 {
				t.Errorf("%d are counted, want 2", got)
			}
			if got := c.State(); got != state {
				t.Errorf("it is %s", got)
			}
			if state == "CLOSE-WAIT" {
				closeWrite(t, c)
				p.expect("FIN", isFIN)
			}
			p.say(lab.ACK, ack, 2, "") // of our FIN
			within(t, 5*time.Second, "the end", func() bool { s := c.State(); return s == "CLOSED" || s == "TIME-WAIT" })
			if life := c.Life(); !life.FinAcked || life.RstSent || life.RstReceived {
				t.Errorf("it ended like this: %+v", life)
			}
		})
	}
}

// RFC 9293, 3.10.7.3: in SYN-SENT a wrong ACK gets a RST, with data or FIN too,
// and our SYN goes on as if nothing had been.
func TestAWrongACKInSYNSENTLeavesOurSYNToItsTimer(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, first := b.dial(t, p)
	for _, s := range []lab.Craft{p.craft(lab.ACK, 1, 500, ""), p.craft(lab.ACK|lab.PSH, 1, 0, "data"), p.craft(lab.ACK|lab.FIN, 1, 2, "")} {
		p.send(s)
		if got := p.expect("an answer", anything); got.Flags != lab.RST || got.Seq != s.Ack {
			t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", got)
		}
	}
	again := p.expect("the SYN again", anything)
	if again.Flags != lab.SYN || again.Seq != first.Seq {
		t.Errorf("got %v, want the SYN again", again)
	}
	between(t, "the second SYN", again.Time.Sub(first.Time), 900*time.Millisecond, 1900*time.Millisecond)
	p.say(lab.SYN|lab.ACK, 0, 1, "")
	if err := await(t, c, c.Established); err != nil {
		t.Error(err)
	}
	if life := c.Life(); life.SynRetrans != 1 || life.RstSent {
		t.Errorf("it began like this: %+v", life)
	}
}

// RFC 9293, 3.10.7.4 (SYN-RECEIVED), RFC 5961, 4.2: another SYN, wherever it
// lies, gets an ACK and ends nothing; nor does a segment outside of the window,
// whatever it acknowledges.
func TestWhatIsUnacceptableInSYNRECEIVEDGetsAnACK(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			l := b.listen(t, at)
			p := b.peer(t, at, 5000)
			p.say(lab.SYN, 0, 0, "")
			p.irs = p.expect("SYN-ACK", isSYNACK).Seq
			for _, s := range []lab.Craft{
				p.craft(lab.SYN, 100, 0, ""), p.craft(lab.SYN, 1<<30, 0, ""),
				p.craft(lab.ACK, 1<<30, 1, ""), p.craft(lab.ACK|lab.PSH, 1<<30, 77, "data"), p.craft(lab.ACK, 0, 1, ""),
			} {
				p.send(s)
				p.expectBare(1, 1)
			}
			p.say(lab.ACK|lab.PSH, 1, 1, "abc")
			if got := read(t, accept(t, l), 3); got != "abc" {
				t.Errorf("read %q", got)
			}
		})
	}
}

// A wrong ACK in SYN-RECEIVED gets its RST, and the table goes on to watch the
// handshake.
func TestAWrongACKInSYNRECEIVEDLeavesTheFlow(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN, 0, 0, "")
	p.irs = p.expect("SYN-ACK", isSYNACK).Seq
	p.say(lab.ACK, 1, 500, "")
	if s := p.expect("RST", isRST); s.Seq != p.irs+500 {
		t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	p.say(lab.ACK, 1, 1, "")
	c := accept(t, l)
	p.say(lab.ACK|lab.PSH, 1, 1<<20, "evil")
	p.expectACK(1, 1)
	if got := b.flows.Count.BadACK.Load(); got != 1 {
		t.Errorf("%d impossible ACKs are counted, want 1: the guard has lost the connection", got)
	}
	if life := c.Life(); life.RstSent || len(life.Steps) != 2 {
		t.Errorf("it began like this: %+v", life)
	}
}

// RFC 1122, 3.3.6 and 3.2.1.3: no SYN that was sent to all on the link, nor from
// a broadcast address of ours or from ourselves.
func TestSYNsToAllAndFromOurselvesAreIgnored(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	toAll := p.craft(lab.SYN, 0, 0, "")
	toAll.DstMAC = lab.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	p.send(toAll)
	toGroup := p.craft(lab.SYN, 0, 0, "")
	toGroup.DstMAC = lab.MAC{1, 0, 0x5e, 0, 0, 1}
	p.send(toGroup)
	for _, from := range []netip.AddrPort{stackAddr(port), stackAddr(5000), netip.MustParseAddrPort("10.9.0.255:5000")} {
		s := p.craft(lab.SYN, 0, 0, "")
		s.Src = from
		p.send(s)
	}
	p.handshake() // what came before was handled by now
	accept(t, l)
	if n, states := len(b.flows.List()), b.States(); n != 1 || states["SYN-RECEIVED"] != 0 {
		t.Errorf("%d connections are known, want one; the stack has %v", n, states)
	}
	if got := b.flows.Count.BadSource.Load(); got != 3 {
		t.Errorf("%d bad sources are counted, want 3", got)
	}
	if got := b.flows.Count.Group.Load(); got != 2 {
		t.Errorf("%d segments to all are counted, want 2", got)
	}
}

// RFC 5681, 4.2: what fills a gap is acknowledged at once. Otherwise the first
// ACK of a connection waits for 20 ms: of some connections one at least is not
// late for other reasons.
func TestWhatFillsAGapIsAcknowledgedAtOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]byte{"with SACK": modern(), "without": mss(1460)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			l := b.listen(t, box4)
			best := time.Hour
			for from := uint16(0); from < 50 && best > 15*time.Millisecond; from++ {
				p := b.peer(t, box4, 5000+from)
				p.handshake(options...)
				c := accept(t, l)
				p.say(lab.ACK|lab.PSH, 4, 1, "def")
				p.expect("a duplicate ACK", func(s lab.Segment) bool { return s.Ack-p.iss == 1 })
				begin := time.Now()
				p.say(lab.ACK|lab.PSH, 1, 1, "abc")
				p.expect("the ACK", func(s lab.Segment) bool { return s.Ack-p.iss == 7 })
				best = min(best, time.Since(begin))
				if got := read(t, c, 6); got != "abcdef" {
					t.Errorf("read %q", got)
				}
			}
			if best > 15*time.Millisecond {
				t.Errorf("acknowledged after %v, want at once", best)
			}
		})
	}
}

// A connection whose handshake the table has not seen, because there were too
// many at once, is guarded once we have sent something (RFC 5961, 5.2).
func TestAConnectionOutOfACrowdIsGuarded(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) { p.Retransmit.SynRetries = 6 })
	l := b.listen(t, box4)
	b.peer(t, box4, 5000) // announces its address
	from := uint16(5000)
	next := func() (*peer, lab.Segment) {
		for {
			from++
			p := &peer{T: t, b: b, from: netip.AddrPortFrom(peer4, from), to: stackAddr(port), iss: 100_000, win: 65535, val: peerTS}
			syn := p.craft(lab.SYN, 0, 0, "")
			syn.Options = modern()
			p.send(syn)
			if s, ok := p.next(isSYNACK, 2*time.Second); ok {
				return p, s
			}
		}
	}
	for before := -1; b.flows.HalfOpen() > before; {
		before = b.flows.HalfOpen()
		next()
	}
	p, s := next()
	if _, scaled := optionOf(s, 3); scaled {
		t.Error("the SYN-ACK offers a window scale, so it is no cookie")
	}
	p.irs = s.Seq
	if data, ok := optionOf(s, 8); ok {
		p.ts, p.ecr = true, binary.BigEndian.Uint32(data)
	}
	p.say(lab.ACK|lab.PSH, 1, 1, "hello")
	c := accept(t, l)
	if got := read(t, c, 5); got != "hello" {
		t.Errorf("read %q", got)
	}
	write(t, c, "hi")
	p.expect("hi", func(s lab.Segment) bool { return s.Len == 2 })
	p.say(lab.ACK|lab.PSH, 6, 1<<20, "evil")
	p.expectBare(3, 6)
	p.say(lab.ACK|lab.PSH, 6, 3, "good")
	if got := read(t, c, 4); got != "good" {
		t.Errorf("read %q", got)
	}
}

// A segment in IP fragments is one: the guard judges it, and its FIN is known.
func TestASegmentInFragmentsIsJudgedAsOne(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			p, c := b.open(t, at, mss(1220)...)
			say := func(flags lab.Flags, seq, ack uint32, data string) {
				for _, f := range p.craft(flags, seq, ack, data).Fragments(48, 7) {
					p.frame(f)
				}
			}
			text := strings.Repeat("0123456789", 20)
			say(lab.ACK|lab.PSH, 1, 1, text)
			if got := read(t, c, 200); got != text {
				t.Errorf("read %q", got)
			}
			say(lab.ACK|lab.PSH, 201, 1<<20, "evil"+text)
			p.expectBare(1, 201)
			if got := b.flows.Count.BadACK.Load(); got != 1 {
				t.Errorf("%d impossible ACKs are counted, want 1", got)
			}
			say(lab.ACK|lab.FIN, 201, 1, text)
			p.expectBare(1, 402)
			if got := read(t, c, 200); got != text {
				t.Errorf("read %q", got)
			}
			closeWrite(t, c)
			p.expect("FIN", isFIN)
			p.say(lab.ACK, 402, 2, "")
			within(t, 5*time.Second, "the end", isState(c, "CLOSED"))
			if life := c.Life(); life.FinFirst != tcpinfo.Peer || !life.PeerFin || !life.FinAcked {
				t.Errorf("it ended like this: %+v", life)
			}
		})
	}
}
