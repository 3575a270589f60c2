package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// wellFormed reports whether the list of options ends where it should: each has
// its length, and what follows the end is padding.
func wellFormed(o []byte) bool {
	for len(o) > 0 {
		switch {
		case o[0] == 0:
			return len(bytes.Trim(o, "\x00")) == 0
		case o[0] == 1:
			o = o[1:]
			continue
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return false
		}
		o = o[o[1]:]
	}
	return true
}

func mssOf(t *testing.T, s lab.Segment) int {
	t.Helper()
	data, found := optionOf(s, 2)
	if !wellFormed(s.Options) {
		t.Errorf("options %x have no right lengths or padding", s.Options)
	}
	if !found || len(data) != 2 {
		return 0
	}
	return int(data[0])<<8 | int(data[1])
}

// MUST-14, MUST-67, MUST-68, MUST-69, MUST-65: our SYN and SYN-ACK carry the
// MSS that the card's MTU allows, in a well-formed list; other segments none.
func TestOurSYNsOfferWhatTheCardCarries(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	l := r.listen(t, box4)
	h := r.peer(t, box4, 5000)
	if got := mssOf(t, h.handshake(modern()...)); got != 1460 {
		t.Errorf("the SYN-ACK offers an MSS of %d, want 1460", got)
	}
	c := accept(t, l)
	write(t, c, "data")
	if s := h.expect("data", func(s lab.Segment) bool { return s.Len == 4 }); mssOf(t, s) != 0 {
		t.Errorf("a segment with data has an MSS option: %x", s.Options)
	}
	d := r.peer(t, box4, 7000)
	_, s := r.dial(t, d)
	if got := mssOf(t, s); got != 1460 {
		t.Errorf("the SYN offers an MSS of %d, want 1460", got)
	}
}

// MUST-15, MUST-16, MUST-4, MUST-64, MUST-6, MUST-7: what a SYN's options say is
// kept, wherever it stands and whatever stands beside it; without an MSS, 536.
func TestTheOptionsOfASYNAreKept(t *testing.T) {
	t.Parallel()
	mss := option(2, 2, 88) // 600
	for name, c := range map[string]struct {
		options []byte
		most    int
	}{
		"none":                    {nil, 536},
		"an MSS of 600":           {mss, 600},
		"NOP, MSS, end":           {append(append([]byte{1}, mss...), 0), 600},
		"off its word":            {append([]byte{1, 1, 1}, mss...), 600},
		"behind an unknown one":   {append(option(200, 1, 2, 3, 4), mss...), 600},
		"before a length of 0":    {append(append([]byte{}, mss...), 201, 0, 1, 1), 600},
		"before a length of 1":    {append(append([]byte{}, mss...), 201, 1, 1, 1), 600},
		"before too long an one":  {append(append([]byte{}, mss...), 201, 40, 1, 1), 600},
		"with timestamps":         {append(append([]byte{}, mss...), stamp(1, 0)...), 588},
		"an MSS of two bytes' 64": {option(2, 0, 64), 536}, // no peer can mean less
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, h, conn := met(t, nil, c.options...)
			write(t, conn, string(make([]byte, 3000)))
			first := h.expect("data", hasData)
			if first.Len > c.most || name != "an MSS of two bytes' 64" && first.Len < c.most-40 {
				t.Errorf("a segment of %d bytes, want %d or a little less", first.Len, c.most)
			}
		})
	}
}

// MUST-5, MUST-6, MUST-7: options may stand in any segment.
func TestStrangeOptionsOnDataAreIgnored(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	seq := uint32(1)
	for _, o := range [][]byte{option(200, 1, 2), {1, 1, 1, 1}, {201, 0, 0, 0}, {201, 44, 1, 1}, option(2, 5, 0xb4), option(34)} {
		s := h.craft(lab.ACK|lab.PSH, seq, 1, "abc")
		s.Options = o
		h.send(s)
		if got := read(t, c, 3); got != "abc" {
			t.Errorf("with options %x: heard %q", o, got)
		}
		seq += 3
	}
}

// MUST-50: IP options that TCP has no use for.
func TestIPOptionsAreIgnored(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	s := h.craft(lab.ACK|lab.PSH, 1, 1, "abc")
	s.IPOptions = []byte{1, 1, 1, 0}
	h.send(s)
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("heard %q", got)
	}
}

// MUST-3, MUST-2: a wrong checksum is noticed, ours are right.
func TestChecksumsAreMadeAndVerified(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, nil)
	bad := h.craft(lab.ACK|lab.PSH, 1, 1, "bad")
	bad.BadSum = true
	h.send(bad)
	h.expectNothing("an answer", anything)
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("heard %q", got)
	}
	if s := h.expect("ACK", anything); !s.Complete {
		t.Errorf("the checksum of our ACK is wrong: %v", s)
	}
}

// RFC 9293, 3.10.7.1 and 3.10.7.2: where nobody listens, and who has not said SYN.
func TestWhatBelongsToNoConnectionGetsRSTOrNothing(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	r.listen(t, box4)
	closed := r.peer(t, box4, 5001)
	closed.to = netip.AddrPortFrom(box4, 81)
	closed.say(lab.SYN, 0, 0, "")
	s := closed.expect("RST", isRST)
	if s.Seq != 0 || s.Ack != closed.iss+1 || !s.Flags.Has(lab.ACK) {
		t.Errorf("a SYN nobody waits for gets %v, want <SEQ=0><ACK=SEG.SEQ+1><CTL=RST,ACK>", s)
	}
	closed.say(lab.ACK, 1, 77, "")
	if s := closed.expect("RST", isRST); s.Seq != 77 {
		t.Errorf("an ACK gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	closed.say(lab.RST, 0, 0, "")
	closed.expectNothing("an answer to RST", anything)

	h := r.peer(t, box4, 5002)
	h.say(lab.RST, 0, 0, "")
	h.expectNothing("an answer to RST in LISTEN", anything)
	h.say(lab.ACK, 1, 99, "")
	if s := h.expect("RST", isRST); s.Seq != 99 {
		t.Errorf("an ACK in LISTEN gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	h.say(lab.FIN, 1, 0, "")
	h.expectNothing("an answer to FIN in LISTEN", anything)
}

// MUST-11, RFC 9293, 3.10.7.4 (SYN-RECEIVED): a RST takes the handshake back,
// and whoever listens hears nothing of it.
func TestARSTInSynReceivedReturnsToListen(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	l := r.listen(t, box4)
	h := r.peer(t, box4, 5000)
	h.say(lab.SYN, 0, 0, "")
	h.expect("SYN-ACK", isSYNACK)
	h.say(lab.RST, 1, 0, "")
	within(t, 5*time.Second, "the handshake forgotten", func() bool { return r.States()["SYN-RECEIVED"] == 0 })
	if c, err := l.TryAccept(); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("accepted %v, %v", c, err)
	}
	h.handshake()
	if got := accept(t, l).RemoteAddr(); got != h.from {
		t.Errorf("accepted %v, want %v", got, h.from)
	}
}

// RFC 9293, 3.10.7.4 and 3.5.1: an ACK of what was not our SYN is answered with RST.
func TestAWrongACKInTheHandshakeIsAnsweredWithRST(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	r.listen(t, box4)
	h := r.peer(t, box4, 5000)
	h.say(lab.SYN, 0, 0, "")
	h.irs = h.expect("SYN-ACK", isSYNACK).Seq
	h.say(lab.ACK, 1, 500, "")
	if s := h.expect("RST", isRST); s.Seq != h.irs+500 {
		t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	d := r.peer(t, box4, 7000)
	c, _ := r.dial(t, d)
	d.say(lab.SYN|lab.ACK, 0, 900, "")
	if s := d.expect("RST", isRST); s.Seq != d.irs+900 {
		t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	d.say(lab.RST|lab.ACK, 0, 900, "") // of another connection
	d.say(lab.RST, 0, 0, "")           // without an ACK it says nothing
	d.expectNothing("the end", isRST)
	d.say(lab.SYN|lab.ACK, 0, 1, "")
	if err := await(t, c, c.Established); err != nil {
		t.Errorf("after a right SYN-ACK: %v", err)
	}
}

// MUST-12, MUST-47: a refused dial and a reset are told.
func TestARefusalAndAResetAreTold(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, nil)
	h.say(lab.RST, 1, 0, "")
	if err := ending(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the reader is told %v, want %v", err, syscall.ECONNRESET)
	}
	d := r.peer(t, box4, 7000)
	dialled, _ := r.dial(t, d)
	d.say(lab.RST|lab.ACK, 0, 1, "")
	if err := await(t, dialled, dialled.Established); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the dialler is told %v, want %v", err, syscall.ECONNREFUSED)
	}
}

// RFC 9293, 3.8.1: who repeats its SYN has missed our SYN-ACK, and gets it again, at
// once and as it was.
func TestARepeatedSYNGetsTheSYNACKAgain(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]byte{"none": nil, "an MSS": mss(1460), "all": modern(), "no timestamps": modern()[:len(modern())-12]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			l := b.listen(t, box4)
			p := b.peer(t, box4, 5000)
			syn := p.craft(lab.SYN, 0, 0, "")
			syn.Options = options
			p.send(syn)
			first := p.expect("a SYN-ACK", isSYNACK)
			_, stamped := optionOf(first, 8)
			if stamped {
				copy(syn.Options[len(syn.Options)-8:], binary.BigEndian.AppendUint32(nil, peerTS+300))
			}
			p.send(syn)
			again, came := p.next(anything, 700*time.Millisecond) // gVisor's own comes after a second
			if !came || again.Flags != first.Flags || again.Seq != first.Seq || again.Ack != first.Ack {
				t.Fatalf("it gets %v, want the same as before: %v", again, first)
			}
			for _, kind := range []byte{2, 3, 4} {
				want, offered := optionOf(first, kind)
				if got, there := optionOf(again, kind); there != offered || !bytes.Equal(got, want) {
					t.Errorf("option %d is %x, want %x as before", kind, got, want)
				}
			}
			if shift, scaled := optionOf(first, 3); again.Win > first.Win || scaled && again.Win>>shift[0] < first.Win>>shift[0] || !scaled && again.Win != first.Win {
				t.Errorf("it offers %d, want the %d of before", again.Win, first.Win)
			}
			ts, _ := optionOf(again, 8)
			if old, _ := optionOf(first, 8); len(ts) != len(old) || stamped && (binary.BigEndian.Uint32(ts)-binary.BigEndian.Uint32(old) > 700 || binary.BigEndian.Uint32(ts[4:]) != peerTS+300) {
				t.Errorf("its timestamp is %x after %x, want one not much later that echoes the second SYN's", ts, old)
			}
			if p.irs, p.ts = again.Seq, stamped; stamped {
				p.val, p.ecr = peerTS+301, binary.BigEndian.Uint32(ts)
			}
			p.say(lab.ACK|lab.PSH, 1, 1, "hello")
			if got := read(t, accept(t, l), 5); got != "hello" {
				t.Errorf("heard %q", got)
			}
		})
	}
}

// MUST-57, MUST-63: no connection with a group.
func TestSYNsToAndFromGroupsAreIgnored(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	l := r.listen(t, box4)
	h := r.peer(t, box4, 5000)
	broadcast := lab.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, x := range []struct {
		from, to string
		mac      lab.MAC
	}{
		{"10.9.0.77", "10.9.0.255", broadcast},
		{"10.9.0.77", "255.255.255.255", broadcast},
		{"10.9.0.77", "224.0.0.1", lab.MAC{1, 0, 0x5e, 0, 0, 1}},
		{"224.0.0.5", "10.9.0.1", h.b.mac},
		{"255.255.255.255", "10.9.0.1", h.b.mac},
	} {
		c := h.craft(lab.SYN, 0, 0, "")
		c.Src, c.Dst = netip.AddrPortFrom(netip.MustParseAddr(x.from), 5000), netip.AddrPortFrom(netip.MustParseAddr(x.to), 80)
		c.DstMAC = x.mac
		h.send(c)
	}
	h.handshake() // what came before was handled by now
	accept(t, l)
	if n := len(r.flows.List()); n != 1 {
		t.Errorf("%d connections are known, want one", n)
	}
	if got := r.flows.Count.BadSource.Load(); got != 2 {
		t.Errorf("%d bad sources are counted, want 2", got)
	}
}

// MUST-8 (RFC 6528): initial sequence numbers follow a clock, from a place that
// differs for each pair of ends.
func TestInitialSequenceNumbersFollowAClockForEachPairOfEnds(t *testing.T) {
	t.Parallel()
	r := newBox(t, nil)
	l := r.listen(t, box4)
	isn := func(port uint16) uint32 {
		h := r.peer(t, box4, port)
		h.handshake()
		c := accept(t, l)
		h.say(lab.RST, 1, 0, "")
		within(t, 5*time.Second, "the reset", func() bool { return c.State() == "CLOSED" })
		c.Abort()
		return h.irs
	}
	begin := time.Now()
	first := isn(5000)
	middle := isn(5001)
	time.Sleep(200 * time.Millisecond)
	again := isn(5000)
	passed := uint32(time.Since(begin).Nanoseconds() / 64) // of a clock of 64 ns
	if grown := again - first; grown == 0 || grown > 2*passed {
		t.Errorf("the same ends, %v later: %d more, want at most %d", time.Since(begin), grown, passed)
	}
	if d := middle - first; d < passed {
		t.Errorf("other ends start %d beside", d)
	}
}

// MUST-41, MUST-42: one port on several addresses, and connections beside those
// who listen.
func TestListenersOfOnePortStandSideBySide(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	four, six := b.listen(t, box4), b.listen(t, box6)
	first, second, other := b.peer(t, box4, 5000), b.peer(t, box4, 5001), b.peer(t, box6, 5000)
	first.handshake()
	one := accept(t, four)
	other.handshake()
	two := accept(t, six)
	second.handshake()
	if c := accept(t, four); c.RemoteAddr() != second.from {
		t.Errorf("accepted %v, want %v", c.RemoteAddr(), second.from)
	}
	if err := four.Close(); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		p *peer
		c *stack.Conn
	}{{first, one}, {other, two}} {
		x.p.say(lab.ACK|lab.PSH, 1, 1, "on")
		if got := read(t, x.c, 2); got != "on" {
			t.Errorf("heard %q from %v", got, x.p.from)
		}
	}
}

// RFC 9293, 3.10.7.4, fifth check: whatever acknowledges our SYN completes the
// handshake, also if the ACK that should have done it and the first bytes are lost,
// and we speak before they come again.
func TestAHandshakeIsCompletedByLaterBytes(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	syn := p.craft(lab.SYN, 0, 0, "")
	syn.Options = modern()
	p.send(syn)
	s := p.expect("a SYN-ACK", isSYNACK)
	ts, _ := optionOf(s, 8)
	p.irs, p.ts, p.ecr = s.Seq, true, binary.BigEndian.Uint32(ts)
	p.say(lab.ACK, 1+5, 1, "world")
	c := accept(t, l)
	write(t, c, "banner")
	p.expect("the banner", hasData)
	p.say(lab.ACK, 1, 1+6, "hello")
	p.expectACK(1+6, 1+10)
	if state, ok := b.flows.State(c.LocalAddr(), c.RemoteAddr(), c.ID()); !ok || state != flow.Established {
		t.Errorf("the table has it in %v, want ESTABLISHED", state)
	}
	if n := b.flows.HalfOpen(); n != 0 {
		t.Errorf("%d handshakes are under way, want none", n)
	}
}
