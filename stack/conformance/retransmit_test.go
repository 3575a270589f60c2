package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
)

// between checks a time with room for a busy machine.
func between(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s after %v, want %v to %v", what, got, low, high)
	}
}

// RFC 6298, 2.1 and 5.5, MUST-22: a SYN is sent again after one second, and
// then after twice that.
func TestASYNIsSentAgainAfterASecondAndThenTwo(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	_, first := b.dial(t, p)
	isSYN := func(s lab.Segment) bool { return s.Flags == lab.SYN && s.Seq == first.Seq }
	second := p.expect("the SYN again", isSYN)
	third := p.expect("the SYN again", isSYN)
	between(t, "the second SYN", second.Time.Sub(first.Time), 900*time.Millisecond, 1900*time.Millisecond)
	between(t, "the third SYN", third.Time.Sub(second.Time), 1800*time.Millisecond, 3900*time.Millisecond)
}

// RFC 6298, 2.1 and 5.5, MUST-22: the same for a SYN-ACK.
func TestASYNACKIsSentAgainAfterASecondAndThenTwo(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	p.say(lab.SYN, 0, 0, "")
	first := p.expect("the SYN-ACK", isSYNACK)
	second := p.expect("the SYN-ACK again", isSYNACK)
	third := p.expect("the SYN-ACK again", isSYNACK)
	if second.Seq != first.Seq || third.Seq != first.Seq {
		t.Errorf("the ISN changes: %d, %d, %d", first.Seq, second.Seq, third.Seq)
	}
	between(t, "the second SYN-ACK", second.Time.Sub(first.Time), 900*time.Millisecond, 1900*time.Millisecond)
	between(t, "the third SYN-ACK", third.Time.Sub(second.Time), 1800*time.Millisecond, 3900*time.Millisecond)
}

// RFC 6298, 5.7: after a SYN that was sent again the first timeout of data is
// three seconds.
func TestAfterALostSYNDataWaitForThreeSeconds(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	c, syn := b.dial(t, p)
	p.expect("the SYN again", func(s lab.Segment) bool { return s.Flags == lab.SYN && s.Seq == syn.Seq })
	p.say(lab.SYN|lab.ACK, 0, 1, "")
	p.expectACK(1, 1)
	if err := await(t, c, c.Established); err != nil {
		t.Fatal(err)
	}
	write(t, c, "lost")
	first := p.expect("data", hasData)
	second := p.expect("the data again", hasData)
	seen := ""
	if took := second.Time.Sub(first.Time); took < 2500*time.Millisecond {
		seen = fmt.Sprintf("data are sent again after %v", took)
	}
	holds(t, seen)
}

// A loss before any round trip was measured (RFC 6298, 3: a SYN that was sent again
// measures none) does not stop the sender for good.
func TestALossBeforeTheFirstMeasurementDoesNotStopTheSender(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	l := b.listen(t, box4)
	p := b.peer(t, box4, 5000)
	syn := p.craft(lab.SYN, 0, 0, "")
	syn.Options = append(mss(1460), append(option(4), 1, 1)...) // SACK, no timestamps
	p.send(syn)
	p.irs = p.expect("the SYN-ACK", isSYNACK).Seq
	p.expect("the SYN-ACK again", isSYNACK)
	p.say(lab.ACK, 1, 1, "")
	c := accept(t, l)
	const size = 100
	text := strings.Repeat("x", size)
	for range 2 {
		write(t, c, text)
		p.expect("data", hasData)
	}
	// The second has arrived, the first has not.
	lost := p.craft(lab.ACK, 1, 1, "")
	block := binary.BigEndian.AppendUint32(nil, p.irs+1+size)
	lost.Options = append([]byte{1, 1}, option(5, binary.BigEndian.AppendUint32(block, p.irs+1+2*size)...)...)
	p.send(lost)
	p.expect("the first again", func(s lab.Segment) bool { return hasData(s) && s.Seq-p.irs == 1 })
	p.say(lab.ACK, 1, 1+2*size, "")
	for i := range uint32(3) {
		write(t, c, text)
		want := 1 + (2+i)*size
		p.expect("more data", func(s lab.Segment) bool { return hasData(s) && s.Seq-p.irs == want })
		p.say(lab.ACK, 1, want+size, "")
	}
}

// RFC 6298, 5.3: an ACK of new data starts the timer again.
func TestAnACKOfNewDataRestartsTheTimer(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) { p.Retransmit.MinRTO = time.Second })
	p, c := b.open(t, box4, mss(1460)...)
	write(t, c, "first")
	p.expect("data", hasData)
	write(t, c, "second")
	p.expect("data", hasData)
	p.expectNothing("too early", hasData) // 300 ms
	p.expectNothing("too early", hasData)
	begin := time.Now()
	p.say(lab.ACK, 1, 6, "")
	s := p.expect("the second again", hasData)
	if s.Seq-p.irs != 6 {
		t.Errorf("sent again is %v, want what was not acknowledged", s)
	}
	between(t, "it came", s.Time.Sub(begin), 900*time.Millisecond, 2*time.Second)
}

// MUST-20, MUST-21: after as many repetitions as the policy allows, the
// connection ends and its user is told.
func TestAPeerThatAcknowledgesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) {
		p.Retransmit.MaxRetries, p.UserTimeout, p.Retransmit.LossDetection = 3, config.Off, "sack"
	})
	p, c := b.open(t, box6, mss(1220)...)
	write(t, c, "lost")
	sent := 0
	for {
		s, ok := p.next(func(s lab.Segment) bool { return hasData(s) || isRST(s) }, 6*time.Second)
		if !ok || isRST(s) {
			break
		}
		sent++
	}
	if sent < 3 || sent > 5 {
		t.Errorf("it was sent %d times, want once and three repetitions", sent)
	}
	err := await(t, c, func() error { _, err := c.TryRead(make([]byte, 1)); return err })
	if !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("the user is told %v, want %v", err, syscall.ETIMEDOUT)
	}
}

// MUST-29, MUST-24, MUST-27: a probe whose answer is lost ends nothing, and the
// next that is answered makes all well.
func TestALostAnswerToAKeepaliveProbeEndsNothing(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: time.Second, Interval: 600 * time.Millisecond, Probes: 3}
	})
	p, c := b.open(t, box4, mss(1460)...)
	probe := func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Seq == p.irs }
	for range 2 {
		p.expect("a probe", probe)
		p.expect("a probe", probe)
		p.say(lab.ACK, 1, 1, "")
	}
	if got := c.State(); got != "ESTABLISHED" {
		t.Errorf("it is %s", got)
	}
}

// MUST-26: no probe while data wait for their ACK.
func TestNoKeepaliveProbeWhileDataAreUnacknowledged(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: time.Second, Interval: time.Second, Probes: 5}
	})
	p, c := b.open(t, box4, mss(1460)...)
	write(t, c, "data")
	if s, ok := p.next(func(s lab.Segment) bool { return s.Seq == p.irs }, 2500*time.Millisecond); ok {
		t.Errorf("while data are unacknowledged came %v", s)
	}
}

// RFC 6298, 2.2 and 2.3: the first round trip R makes the timeout R + 4 R/2, and
// later ones move it.
func TestRoundTripsSetTheTimeout(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := b.peer(t, box4, 7000)
	begin := time.Now()
	c, _ := b.dial(t, p)
	p.expectNothing("a SYN too early", anything) // 300 ms pass
	p.say(lab.SYN|lab.ACK, 0, 1, "")
	p.expectACK(1, 1)
	if err := await(t, c, c.Established); err != nil {
		t.Fatal(err)
	}
	first := c.Info()
	between(t, "the round trip is", first.RTT, 290*time.Millisecond, time.Since(begin))
	if want := first.RTT * 3; first.RTO < want*9/10 || first.RTO > want*11/10 {
		t.Errorf("after a first round trip of %v the timeout is %v, want %v", first.RTT, first.RTO, want)
	}
	write(t, c, "data")
	p.expect("data", hasData)
	p.say(lab.ACK, 1, 5, "")
	within(t, 5*time.Second, "the ACK", func() bool { return c.Info().Unacked == 0 })
	if second := c.Info(); second.RTT >= first.RTT || second.RTT < first.RTT*8/10 {
		t.Errorf("after a shorter one the smoothed round trip goes from %v to %v, want an eighth less", first.RTT, second.RTT)
	}
}
