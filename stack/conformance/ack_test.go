package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// MUST-40, SHLD-18: an ACK waits for less than half a second.
func TestAnACKIsNotDelayedForLong(t *testing.T) {
	t.Parallel()
	p, _ := newBox(t, nil).open(t, box4, mss(1460)...)
	for i := range uint32(5) {
		begin := time.Now()
		p.say(lab.ACK|lab.PSH, 1+3*i, 1, "abc")
		if took := p.expectACK(1, 4+3*i).Time.Sub(begin); took > 500*time.Millisecond {
			t.Errorf("segment %d is acknowledged after %v", i, took)
		}
	}
}

// SHLD-19, MUST-58: two full segments are acknowledged, by one ACK or two, before
// a third comes.
func TestEverySecondFullSegmentIsAcknowledged(t *testing.T) {
	t.Parallel()
	p, _ := newBox(t, nil).open(t, box4, mss(full)...)
	for i := uint32(0); i < 20; i += 2 {
		p.say(lab.ACK, 1+full*i, 1, strings.Repeat("x", full))
		p.say(lab.ACK, 1+full*(i+1), 1, strings.Repeat("y", full))
		want := 1 + full*(i+2)
		p.expect("the ACK of both", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Ack-p.iss == want })
	}
}

// full is the size of a full segment in IPv4.
const full = 1460

// MUST-31: urgent data of any length are data, whatever their pointer says.
func TestUrgentDataAreReadInTheirPlace(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1460)...)
	seq := uint32(1)
	for _, pointer := range []uint16{0, 1, 3, 6, 7, 1000, 65535} {
		s := p.craft(lab.ACK|lab.PSH|lab.URG, seq, 1, "abcdef")
		s.Urgent = pointer
		p.send(s)
		if got := read(t, c, 6); got != "abcdef" {
			t.Errorf("with an urgent pointer of %d: read %q", pointer, got)
		}
		seq += 6
	}
	if s := p.craft(lab.ACK, seq, 1, ""); s.Urgent != 0 {
		t.Errorf("got %v", s)
	}
}

// RFC 9293, 3.10.7.4, fifth check: an old ACK changes nothing, one of what was
// never sent is answered, and neither frees what was sent.
func TestOnlyARightACKFreesWhatWasSent(t *testing.T) {
	t.Parallel()
	p, c := newBox(t, nil).open(t, box4, mss(1460)...)
	write(t, c, "hello")
	p.expect("data", hasData)
	p.say(lab.ACK, 1, 1, "")
	p.say(lab.ACK, 1, 100, "")
	p.expect("the answer to an ACK of the future", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Len == 0 })
	if got := c.Info().Unacked; got != 5 {
		t.Errorf("%d bytes are unacknowledged, want 5", got)
	}
	p.say(lab.ACK, 1, 6, "")
	within(t, 5*time.Second, "the ACK", func() bool { return c.Info().Unacked == 0 })
}
