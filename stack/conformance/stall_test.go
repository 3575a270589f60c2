package conformance

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/stack"
)

// optionsMost is what gVisor keeps free for options where selective acknowledgements
// are agreed on.
const optionsMost = 36

// at matches what begins at a sequence number and is no bare ACK.
func (p *peer) at(seq uint32) func(lab.Segment) bool {
	return func(s lab.Segment) bool { return s.Seq-p.irs == seq && (s.Len > 0 || isFIN(s)) }
}

// sack acknowledges up to a number, and selectively what lies from one to another.
func (p *peer) sack(ack, from, to uint32) {
	p.Helper()
	s := p.craft(lab.ACK, 1, ack, "")
	block := binary.BigEndian.AppendUint32(nil, p.irs+from)
	s.Options = append(append(s.Options, 1, 1), option(5, binary.BigEndian.AppendUint32(block, p.irs+to)...)...)
	p.send(s)
}

// RFC 6298, 5.1: "Every time a packet containing data is sent (including a
// retransmission), if the timer is not running, start it". After a recovery from two
// losses gVisor believes that nothing is on its way; then the probe of RFC 8985, 7.3,
// leaves no timer running.
func TestATailAndItsProbeThatAreLostComeAgain(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"data", "FIN"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			const size = 1000
			b := newBox(t, func(p *config.Policy) { p.UserTimeout = 6 * time.Second })
			p, c := b.open(t, box4, append(mss(size+optionsMost), option(4)...)...)
			for i := range uint32(5) {
				write(t, c, strings.Repeat("x", size))
				p.expect("data", p.at(1+i*size))
			}
			p.sack(1, 1+2*size, 1+5*size) // the first two are lost
			p.expect("the first again", p.at(1))
			p.expect("the second again", p.at(1+size))
			if what == "FIN" {
				closeWrite(t, c)
			} else {
				write(t, c, "tail")
			}
			began := p.expect("the tail", p.at(1+5*size)).Time
			p.say(lab.ACK, 1, 1+5*size, "")
			for _, again := range []string{"probe", "second", "third"} { // none arrives
				p.expect("the tail again: "+again, p.at(1+5*size))
			}
			// The policy's bound is as it was.
			var timeout *stack.TimeoutError
			err := await(t, c, func() error { _, err := c.TryRead(make([]byte, 1)); return err })
			if !errors.As(err, &timeout) || timeout.What != stack.UnansweredData {
				t.Errorf("it has ended by %v, want %q", err, stack.UnansweredData)
			}
			between(t, "it has ended", time.Since(began), 6*time.Second, 12*time.Second)
		})
	}
}

// RFC 9293, 3.8.6, SHLD-16, MAY-7: what was sent into a window that has shrunk since is
// sent again, though it may lie beyond it; new data are not sent (SHLD-15).
func TestAWindowThatShrinksBelowASegmentStopsNothing(t *testing.T) {
	t.Parallel()
	for _, size := range []uint32{1000, 700} {
		b := newBox(t, func(p *config.Policy) { p.Retransmit.MaxRetries = 20 })
		p, c := b.open(t, box4, append(mss(1000+optionsMost), option(4)...)...)
		write(t, c, strings.Repeat("x", int(size)))
		p.expect("data", p.at(1))
		p.win = 400
		p.say(lab.ACK, 1, 1, "")
		write(t, c, strings.Repeat("y", 1000))
		for range 3 {
			p.expect("the data again", p.at(1))
		}
		p.expectNothing("new data", p.at(1+size))
		p.say(lab.ACK, 1, 1+size, "")
		for acked := size; acked < size+1000; { // 400 bytes at a time
			if s := p.expect("what waited, or a probe", hasData); s.Seq-p.irs == 1+acked {
				acked += uint32(s.Len)
			}
			p.say(lab.ACK, 1, 1+acked, "")
		}
	}
}

// RFC 9293, 3.8.6, SHLD-16: what was dropped when the window closed comes again once it
// opens, by however little, and though the word of it is lost.
func TestWhatWasDroppedByAFullReceiverComesAgain(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p, c := b.open(t, box4, append(mss(1000+optionsMost), option(4)...)...)
	p.win = 2000
	p.say(lab.ACK, 1, 1, "")
	within(t, 5*time.Second, "the window", func() bool { return c.Info().SndWnd == 2000 })
	write(t, c, strings.Repeat("x", 5000))
	p.expect("data", p.at(1))
	p.expect("data", p.at(1001))
	p.win = 0
	p.say(lab.ACK, 1, 1001, "") // no room for the second
	probe := func(s lab.Segment) bool { return s.Seq-p.irs == 1000 }
	p.expect("a probe", probe)
	p.say(lab.ACK, 1, 1001, "")
	p.expect("a probe", probe)
	p.win = 500
	p.say(lab.ACK, 1, 1001, "")
	for range 2 {
		p.expect("the second again", p.at(1001))
	}
}

// RFC 5961, 3.2: a RST beyond the window is dropped without a word. One for a peer whose
// window has shrunk below what was sent lies at its edge.
func TestARSTLiesInAWindowThatHasShrunk(t *testing.T) {
	t.Parallel()
	for _, window := range []uint32{0, 400} {
		b := newBox(t, nil)
		p, c := b.open(t, box4, append(mss(1000+optionsMost), option(4)...)...)
		write(t, c, strings.Repeat("x", 1000))
		p.expect("data", p.at(1))
		p.win = uint16(window)
		p.say(lab.ACK, 1, 1, "")
		within(t, 5*time.Second, "word of the window", func() bool { return c.Life().ZeroWindow > 0 || window > 0 })
		p.expect("the data or a probe again", hasData)
		c.Abort()
		if s := p.expect("RST", isRST); s.Seq-p.irs != 1+window {
			t.Errorf("with a window of %d it has number %d, want %d", window, s.Seq-p.irs, 1+window)
		}
	}
}
