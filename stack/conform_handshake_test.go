package stack_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// optionOf finds an option; bad is set if the list does not end where it should.
func optionOf(o []byte, kind byte) (data []byte, found, bad bool) {
	for len(o) > 0 {
		switch {
		case o[0] == 0:
			for _, x := range o {
				bad = bad || x != 0 // the padding
			}
			return data, found, bad
		case o[0] == 1:
			o = o[1:]
			continue
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return data, found, true
		case o[0] == kind:
			data, found = o[2:o[1]], true
		}
		o = o[o[1]:]
	}
	return data, found, bad
}

func mssOf(t *testing.T, s lab.Segment) int {
	t.Helper()
	data, found, bad := optionOf(s.Options, 2)
	if bad {
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
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	h := r.hand(t, 5000, l.Addr())
	if got := mssOf(t, h.open(full()...)); got != 1460 {
		t.Errorf("the SYN-ACK offers an MSS of %d, want 1460", got)
	}
	c := accept(t, l)
	write(t, c, "data")
	if s := h.hear("data", func(s lab.Segment) bool { return s.Len == 4 }); mssOf(t, s) != 0 {
		t.Errorf("a segment with data has an MSS option: %x", s.Options)
	}
	d := r.hand(t, 7000, netip.AddrPort{})
	dialled, err := r.Dial(d.from, "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dialled.Abort)
	d.to = dialled.LocalAddr()
	s := d.hear("SYN", func(s lab.Segment) bool { return s.Flags == lab.SYN })
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
			_, h, conn := met(t, want{}, "default", c.options...)
			write(t, conn, string(make([]byte, 3000)))
			first := h.hear("data", func(s lab.Segment) bool { return s.Len > 0 })
			if first.Len > c.most || name != "an MSS of two bytes' 64" && first.Len < c.most-40 {
				t.Errorf("a segment of %d bytes, want %d or a little less", first.Len, c.most)
			}
		})
	}
}

// MUST-5, MUST-6, MUST-7: options may stand in any segment.
func TestStrangeOptionsOnDataAreIgnored(t *testing.T) {
	t.Parallel()
	_, h, c := met(t, want{}, "default")
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
	_, h, c := met(t, want{}, "default")
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
	_, h, c := met(t, want{}, "default")
	bad := h.craft(lab.ACK|lab.PSH, 1, 1, "bad")
	bad.BadSum = true
	h.send(bad)
	h.silent("an answer", any)
	h.say(lab.ACK|lab.PSH, 1, 1, "abc")
	if got := read(t, c, 3); got != "abc" {
		t.Errorf("heard %q", got)
	}
	if s := h.hear("ACK", any); !s.Complete {
		t.Errorf("the checksum of our ACK is wrong: %v", s)
	}
}

// RFC 9293, 3.10.7.1 and 3.10.7.2: where nobody listens, and who has not said SYN.
func TestWhatBelongsToNoConnectionGetsRSTOrNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	closed := r.hand(t, 5001, netip.AddrPortFrom(box4, 81))
	closed.say(lab.SYN, 0, 0, "")
	s := closed.hear("RST", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) })
	if s.Seq != 0 || s.Ack != handISS+1 || !s.Flags.Has(lab.ACK) {
		t.Errorf("a SYN nobody waits for gets %v, want <SEQ=0><ACK=SEG.SEQ+1><CTL=RST,ACK>", s)
	}
	closed.say(lab.ACK, 1, 77, "")
	if s := closed.hear("RST", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) }); s.Seq != 77 {
		t.Errorf("an ACK gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	closed.say(lab.RST, 0, 0, "")
	closed.silent("an answer to RST", any)

	h := r.hand(t, 5002, l.Addr())
	h.say(lab.RST, 0, 0, "")
	h.silent("an answer to RST in LISTEN", any)
	h.say(lab.ACK, 1, 99, "")
	if s := h.hear("RST", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) }); s.Seq != 99 {
		t.Errorf("an ACK in LISTEN gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	h.say(lab.FIN, 1, 0, "")
	h.silent("an answer to FIN in LISTEN", any)
}

// MUST-11, RFC 9293, 3.10.7.4 (SYN-RECEIVED): a RST takes the handshake back,
// and whoever listens hears nothing of it.
func TestARSTInSynReceivedReturnsToListen(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	h := r.hand(t, 5000, l.Addr())
	h.say(lab.SYN, 0, 0, "")
	h.hear("SYN-ACK", func(s lab.Segment) bool { return s.Flags == lab.SYN|lab.ACK })
	h.say(lab.RST, 1, 0, "")
	within(t, 5*time.Second, "the handshake forgotten", func() bool { return r.States()["SYN-RECEIVED"] == 0 })
	if c, err := l.TryAccept(); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("accepted %v, %v", c, err)
	}
	h.open()
	if got := accept(t, l).RemoteAddr(); got != h.from {
		t.Errorf("accepted %v, want %v", got, h.from)
	}
}

// RFC 9293, 3.10.7.4 and 3.5.1: an ACK of what was not our SYN is answered with RST.
func TestAWrongACKInTheHandshakeIsAnsweredWithRST(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	h := r.hand(t, 5000, l.Addr())
	h.say(lab.SYN, 0, 0, "")
	h.irs = h.hear("SYN-ACK", func(s lab.Segment) bool { return s.Flags == lab.SYN|lab.ACK }).Seq
	h.say(lab.ACK, 1, 500, "")
	if s := h.hear("RST", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) }); s.Seq != h.irs+500 {
		t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	d := r.hand(t, 7000, netip.AddrPort{})
	c, err := r.Dial(d.from, "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	d.to = c.LocalAddr()
	d.irs = d.hear("SYN", func(s lab.Segment) bool { return s.Flags == lab.SYN }).Seq
	d.say(lab.SYN|lab.ACK, 0, 900, "")
	if s := d.hear("RST", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) }); s.Seq != d.irs+900 {
		t.Errorf("got %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	d.say(lab.RST|lab.ACK, 0, 900, "") // of another connection
	d.say(lab.RST, 0, 0, "")           // without an ACK it says nothing
	d.silent("the end", func(s lab.Segment) bool { return s.Flags.Has(lab.RST) })
	d.say(lab.SYN|lab.ACK, 0, 1, "")
	if err := await(t, c, c.Established); err != nil {
		t.Errorf("after a right SYN-ACK: %v", err)
	}
}

// MUST-12, MUST-47: a refused dial and a reset are told.
func TestARefusalAndAResetAreTold(t *testing.T) {
	t.Parallel()
	r, h, c := met(t, want{}, "default")
	h.say(lab.RST, 1, 0, "")
	if err := ending(t, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the reader is told %v, want %v", err, syscall.ECONNRESET)
	}
	d := r.hand(t, 7000, netip.AddrPort{})
	dialled, err := r.Dial(d.from, "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dialled.Abort)
	d.to = dialled.LocalAddr()
	d.irs = d.hear("SYN", func(s lab.Segment) bool { return s.Flags == lab.SYN }).Seq
	d.say(lab.RST|lab.ACK, 0, 1, "")
	if err := await(t, dialled, dialled.Established); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the dialler is told %v, want %v", err, syscall.ECONNREFUSED)
	}
}

// MUST-57, MUST-63: no connection with a group.
func TestSYNsToAndFromGroupsAreIgnored(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	h := r.hand(t, 5000, l.Addr())
	for _, x := range []struct {
		from, to string
		mac      net.HardwareAddr
	}{
		{"10.9.0.77", "10.9.0.255", broadcast},
		{"10.9.0.77", "255.255.255.255", broadcast},
		{"10.9.0.77", "224.0.0.1", net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}},
		{"224.0.0.5", "10.9.0.1", h.s.box},
		{"255.255.255.255", "10.9.0.1", h.s.box},
	} {
		c := h.craft(lab.SYN, 0, 0, "")
		c.Src, c.Dst = netip.AddrPortFrom(netip.MustParseAddr(x.from), 5000), netip.AddrPortFrom(netip.MustParseAddr(x.to), 80)
		c.DstMAC = lab.MAC(x.mac)
		h.send(c)
	}
	h.open() // what came before was handled by now
	accept(t, l)
	if n := len(r.flows.List()); n != 1 {
		t.Errorf("%d connections are known, want one", n)
	}
	if got := r.flows.Count.BadSource.Load(); got != 2 {
		t.Errorf("%d bad sources are counted, want 2", got)
	}
}

// MUST-46: nor do we dial one.
func TestDiallingAGroupIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, to := range []string{"224.0.0.1:80", "255.255.255.255:80", "10.9.0.255:80", "[ff02::1]:80", "0.0.0.0:80"} {
		c, err := r.Dial(netip.MustParseAddrPort(to), "default")
		if err != nil {
			continue
		}
		t.Cleanup(c.Abort)
		if err := c.Established(); err == nil || errors.Is(err, syscall.EAGAIN) {
			t.Errorf("%s is dialled", to)
		}
	}
}

// MUST-8 (RFC 6528): initial sequence numbers follow a clock, from a place that
// differs for each pair of ends.
func TestInitialSequenceNumbersFollowAClockForEachPairOfEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	isn := func(port uint16) uint32 {
		h := r.hand(t, port, l.Addr())
		h.open()
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

// MUST-41, MUST-42, MUST-43: one port on several addresses, and connections
// beside those who listen.
func TestListenersOfOnePortDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	four, six := r.listen(t, box4, 80, "default"), r.listen(t, box6, 80, "default")
	a, _ := r.accepted(t, four)
	b, client := r.accepted(t, six)
	again, _ := r.accepted(t, four)
	for _, c := range []interface{ LocalAddr() netip.AddrPort }{a, again} {
		if c.LocalAddr() != four.Addr() {
			t.Errorf("accepted at %v, want %v", c.LocalAddr(), four.Addr())
		}
	}
	four.Close()
	sayTo(t, client, "on")
	if got := read(t, b, 2); got != "on" {
		t.Errorf("heard %q", got)
	}
}
