package conformance

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
)

// RFC 7323, 3.2: a SYN echoes nothing, and a RST has its timestamp too.
func TestTheTimestampsOfSYNAndRST(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	_, syn := b.dial(t, b.peer(t, box4, 7000))
	if data, ok := optionOf(syn, 8); !ok || binary.BigEndian.Uint32(data[4:]) != 0 {
		t.Errorf("the SYN has the timestamps %x, want one that echoes nothing", data)
	}
	p, c := b.open(t, box4, modern()...)
	p.val += 70
	p.say(lab.ACK|lab.PSH, 1, 1, "unread")
	p.expectACK(1, 7)
	c.Abort()
	rst := p.expect("RST", isRST)
	if data, ok := optionOf(rst, 8); !ok || binary.BigEndian.Uint32(data[4:]) != p.val {
		t.Errorf("the RST has the timestamps %x, want an echo of %x", data, p.val)
	}
}

// RFC 7323, 5.4 and 7.1: the clock has another offset for each pair of hosts.
func TestEachPairOfHostsHasItsOwnOffsetOfTimestamps(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	var vals []uint32
	for _, at := range []netip.Addr{box4, box6} {
		b.listen(t, at)
		data, ok := optionOf(b.peer(t, at, 6000).handshake(modern()...), 8)
		if !ok {
			t.Fatal("no timestamps")
		}
		vals = append(vals, binary.BigEndian.Uint32(data))
	}
	if d := int32(vals[1] - vals[0]); d > -100_000 && d < 100_000 {
		t.Errorf("the clocks of two pairs are %d ticks apart", d)
	}
}

// RFC 6191, 2: which SYN opens a connection in TIME-WAIT anew.
func TestWhichSYNReopensTimeWait(t *testing.T) {
	t.Parallel()
	none := append(mss(1460), option(4)...)
	at := func(val uint32) []byte { return append(mss(1460), stamp(val, 0)...) }
	for name, c := range map[string]struct {
		first, again []byte
		seq          int32 // of the SYN, from what is next
		reopens      bool
	}{
		"an equal timestamp and a newer number":    {at(peerTS), at(peerTS), 1000, true},
		"an equal timestamp and an older number":   {at(peerTS), at(peerTS), -1000, false},
		"no timestamp any more and a newer number": {at(peerTS), none, 1000, true},
		"no timestamp any more, an older number":   {at(peerTS), none, -1000, false},
		"timestamps for the first time":            {none, at(peerTS), -1000, true},
		"never timestamps and a newer number":      {none, none, 1000, true},
		"never timestamps and an older number":     {none, none, -1000, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, nil)
			l := b.listen(t, box4)
			p := b.peer(t, box4, 5000)
			p.handshake(c.first...)
			conn := accept(t, l)
			closeWrite(t, conn)
			p.expect("FIN", isFIN)
			p.say(lab.FIN|lab.ACK, 1, 2, "")
			p.expectACK(2, 2)
			within(t, 5*time.Second, "TIME-WAIT", isState(conn, "TIME-WAIT"))
			p.iss += 2 + uint32(c.seq)
			p.ts = false
			syn := p.craft(lab.SYN, 0, 0, "")
			syn.Options = c.again
			p.send(syn)
			s := p.expect("an answer", anything)
			if isSYNACK(s) != c.reopens {
				t.Errorf("it is answered with %v; reopened should be %t", s, c.reopens)
			}
		})
	}
}

// RFC 6298, 3: a round trip is measured at least once in each.
func TestEachRoundTripIsMeasured(t *testing.T) {
	t.Parallel()
	_, p, c := met(t, nil, mss(1000)...) // without timestamps
	next := uint32(1)
	say := func(wait time.Duration) {
		write(t, c, "data")
		p.expect("data", hasData)
		time.Sleep(wait)
		next += 4
		p.say(lab.ACK, 1, next, "")
		within(t, 5*time.Second, "the ACK", func() bool { return c.Info().Unacked == 0 })
	}
	say(0)
	low := c.Info().RTT
	for range 4 {
		say(120 * time.Millisecond)
	}
	// Four samples of R after a smoothed one of about 0: 1 - (7/8)^4 of R.
	if got := c.Info().RTT; got < low+40*time.Millisecond || got > 120*time.Millisecond {
		t.Errorf("after four round trips of 120 ms the smoothed one goes from %v to %v, want some 50 ms", low, got)
	}
}

// RFC 6298, 5.2: once all is acknowledged no timer runs, and nothing comes.
func TestNothingComesOnceAllIsAcknowledged(t *testing.T) {
	t.Parallel()
	_, p, c := met(t, func(p *config.Policy) { p.Retransmit.MinRTO = 50 * time.Millisecond })
	write(t, c, "data")
	p.expect("data", hasData)
	p.say(lab.ACK, 1, 5, "")
	p.expectNothing("a repetition of what was acknowledged", anything)
}
