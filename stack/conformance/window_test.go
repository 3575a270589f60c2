package conformance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
)

// MUST-35, MUST-36, MUST-37, SHLD-29, SHLD-30: a closed window is probed after
// the retransmission timeout, ever less often, and for as long as it is answered.
func TestAClosedWindowIsProbedEverLessOften(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1000)...)
	p.win = 0
	p.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the closed window", func() bool { return c.Info().SndWnd == 0 })
	write(t, c, "waiting")
	begin := time.Now()
	var times []time.Duration
	for range 4 {
		s := p.expect("a probe", anything)
		times = append(times, s.Time.Sub(begin))
		p.say(lab.ACK, 1, 1, "")
	}
	if times[0] < 100*time.Millisecond || times[0] > 2*time.Second {
		t.Errorf("the first probe came after %v, want the timeout", times[0])
	}
	if second, third := times[2]-times[1], times[3]-times[2]; third < second*3/2 {
		t.Errorf("the probes came at %v, want an exponential increase", times)
	}
	p.win = 65535
	p.say(lab.ACK, 1, 1, "")
	if s := p.expect("what waited", func(s lab.Segment) bool { return s.Len == 7 }); string(s.Payload) != "waiting" {
		t.Errorf("the opened window gets %q", s.Payload)
	}
}

// MUST-38 (RFC 1122, 4.2.3.4): a window that opens by some bytes is not used
// while more than that waits and something is on its way.
func TestASenderFillsNoCrumbsOfAWindow(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1000)...)
	p.win = 3000
	p.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the window", func() bool { return c.Info().SndWnd == 3000 })
	write(t, c, strings.Repeat("x", 9000))
	for range 3 {
		p.expect("data", hasData)
	}
	p.win = 2010 // ten bytes more than what is still on its way
	p.say(lab.ACK, 1, 1001, "")
	seen := ""
	if s, ok := p.next(func(s lab.Segment) bool { return s.Len > 0 && s.Seq-p.irs >= 3001 }, 150*time.Millisecond); ok {
		seen = fmt.Sprintf("a segment of %d bytes fills a window that opened by 10", s.Len)
	}
	holds(t, seen)
}

// MUST-38: nor is a crumb filled when nothing is on its way, before a tenth of a
// second has passed; but then it is.
func TestASenderFillsNoCrumbsWhenNothingIsOnItsWay(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]uint16{"shrunk": 65535, "opened": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := newBox(t, nil).open(t, box4, mss(1000)...)
			window := func(n uint16) time.Time {
				p.win = n
				before := time.Now()
				p.say(lab.ACK, 1, 1, "")
				within(t, 5*time.Second, "the window", func() bool { return c.Life().ZeroWindow > 0 || n > 1000 })
				return before
			}
			window(first)
			begin := window(50)
			write(t, c, strings.Repeat("x", 120))
			for sent := uint32(0); sent < 120; {
				s := p.expect("data or a probe", anything)
				if s.Len > 0 && s.Seq-p.irs == 1+sent {
					if took := s.Time.Sub(begin); took < 100*time.Millisecond || took > 3*time.Second {
						t.Errorf("%d bytes fill a window of 50 after %v, want 0.1 to 1 s", s.Len, took)
					}
					sent += uint32(s.Len)
					begin = time.Now()
				}
				p.say(lab.ACK, 1, 1+sent, "")
			}
			p.win = 65535
			p.say(lab.ACK, 1, 121, "")
			write(t, c, "open")
			begin = time.Now()
			if s := p.expect("data", func(s lab.Segment) bool { return s.Seq-p.irs == 121 && s.Len > 0 }); s.Time.Sub(begin) > time.Second {
				t.Errorf("an open window is used after %v", s.Time.Sub(begin))
			}
		})
	}
}

// A small window of a peer that never had a larger one is used at once.
func TestASmallPeersWindowIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) { p.Retransmit.MinRTO = 3 * time.Second })
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.win = 50
	p.handshake(mss(1000)...)
	c := accept(t, l)
	write(t, c, strings.Repeat("x", 120))
	begin := time.Now()
	for sent := uint32(0); sent < 120; {
		sent += uint32(p.expect("data", hasData).Len)
		p.say(lab.ACK, 1, 1+sent, "")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("120 bytes take %v through a window of 50", took)
	}
}

// SHLD-14: the right edge of our window never goes back.
func TestOurWindowIsNotTakenBack(t *testing.T) {
	t.Parallel()
	p, _ := newBox(t, nil).open(t, box4, mss(1460)...)
	edge, sent := uint32(0), uint32(0)
	for chunk := strings.Repeat("x", 1460); sent < 1<<20; {
		p.say(lab.ACK|lab.PSH, 1+sent, 1, chunk)
		s := p.expect("ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Ack-p.iss > sent })
		sent = s.Ack - p.iss - 1
		at := sent + uint32(s.Win)
		if at < edge {
			t.Fatalf("the right edge goes from %d to %d", edge, at)
		}
		edge = at
		if room := edge - sent; room == 0 {
			return
		} else if room < 1460 {
			chunk = chunk[:room]
		}
	}
}

// MUST-16: the window of a peer with a scale is what it says, shifted (RFC 7323, 2.3).
func TestAScaledWindowIsUsedAsItIsMeant(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, append(mss(1000), option(3, 4)...)...)
	p.win = 125 // 2000 bytes
	p.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the window", func() bool { return c.Info().SndWnd == 2000 })
	write(t, c, strings.Repeat("x", 9000))
	bytes := 0
	for {
		s, ok := p.next(hasData, 100*time.Millisecond)
		if !ok {
			break
		}
		bytes = max(bytes, int(s.Seq-p.irs)-1+s.Len)
	}
	if bytes != 2000 {
		t.Errorf("%d bytes are sent into a window of 125 << 4, want 2000", bytes)
	}
}

// RFC 7323, 2.4: the right edge of a scaled window may go back by less than one
// unit. Who has sent up to the old one is still heard while the window is closed.
func TestAClosedWindowHearsWhoIsOverItsEdge(t *testing.T) {
	t.Parallel()
	for _, at := range []netip.Addr{box4, box6} {
		t.Run(family(at), func(t *testing.T) {
			t.Parallel()
			p, c := newBox(t, nil).open(t, at, append(mss(1440), option(3, 7)...)...)
			if p.shift == 0 {
				t.Fatal("the window has no scale")
			}
			next := 1 + p.fill(1397)
			write(t, c, "answer")
			p.expect("data", hasData)
			p.say(lab.ACK, next+40, 7, "") // the 40 bytes before are lost
			if s, again := p.next(hasData, time.Second); again {
				t.Errorf("what was acknowledged comes again: %v", s)
			}
			p.say(lab.ACK|lab.PSH, next, 7, strings.Repeat("z", 40)) // still no room
			p.expectACK(7, next)
			read(t, c, int(next)-1)
			p.say(lab.ACK|lab.PSH, next, 7, strings.Repeat("z", 40))
			if got := read(t, c, 40); got != strings.Repeat("z", 40) {
				t.Errorf("read %q", got)
			}
		})
	}
}
