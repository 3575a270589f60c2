package services

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Beat asks the peer of one side, when the connection is idle, whether its
// application lives (config.Heartbeat). It sits on the Pipe that reads that
// side, which takes the answer out of what arrives:
//
//	quiet --Ask--> open --Expect arrived, swallowed--------+
//	  ^              |  +--anything else, passed on--------+--> quiet
//	  |              +--nothing for Timeout--> dead        |
//	  +----------------------------------------------------+
//
// Only the session's loop uses it, but for timer. A nil Beat asks nothing.
type Beat struct {
	conf    *config.Heartbeat
	since   atomic.Int64 // twice when the last answer came; or twice when the question was asked that waits, plus one
	matched int          // bytes of Expect that have come
}

// Due is what a Beat wants done.
type Due int

// The things to do.
const (
	DueLater Due = iota // nothing before the time given
	DueAsk              // the connection is idle: ask
	DueDead             // the peer has not answered in time
)

// NewBeat makes a Beat that asks as h says.
func NewBeat(h *config.Heartbeat) *Beat { return &Beat{conf: h} }

// Look tells what is due. moved is when bytes last moved; at is when to look again.
func (b *Beat) Look(now, moved time.Duration) (what Due, at time.Duration) {
	open, at := b.fires(moved)
	switch {
	case now < at:
		return DueLater, at
	case open:
		return DueDead, at
	}
	return DueAsk, now + b.conf.Idle // should it not be possible now
}

// open reports whether a question waits for its answer.
func (b *Beat) open() bool { return b.since.Load()&1 != 0 }

// fires tells when the peer is asked, or given up because it has not answered.
func (b *Beat) fires(moved time.Duration) (open bool, at time.Duration) {
	x := b.since.Load()
	if x&1 != 0 {
		return true, time.Duration(x>>1) + b.conf.Timeout
	}
	return false, max(moved, time.Duration(x>>1)) + b.conf.Idle
}

// timer adds the heartbeat to the timers of a connection.
func (b *Beat) timer(to []tcpinfo.Timer, now, moved time.Duration) []tcpinfo.Timer {
	if b == nil {
		return to
	}
	open, at := b.fires(moved)
	t := tcpinfo.Timer{Name: "heartbeat", Left: max(at-now, 0)}
	if open {
		t.Try = 1
	}
	i, _ := slices.BinarySearchFunc(to, t, func(a, b tcpinfo.Timer) int { return cmp.Compare(a.Left, b.Left) })
	return slices.Insert(to, i, t)
}

// Ask sends the question by the pipe to the peer, which holds what its
// connection doesn't take, and says when to look again.
func (b *Beat) Ask(l *Loop, out *Pipe, now time.Duration) (at time.Duration, err error) {
	b.matched = 0
	b.since.Store(int64(now)<<1 | 1)
	return now + b.conf.Timeout, out.inject(l, b.conf.Send)
}

// hear takes the answer out of what has arrived and returns what is to be
// passed on. The peer may split its answer anywhere.
func (b *Beat) hear(l *Loop, in []byte) []byte {
	if b == nil || !b.open() {
		return in
	}
	want := b.conf.Expect[b.matched:]
	n := min(len(want), len(in))
	if string(in[:n]) != want[:n] {
		in = append([]byte(b.conf.Expect[:b.matched]), in...) // it only looked like the answer
		b.close(l)
		return in
	}
	if b.matched += n; b.matched == len(b.conf.Expect) {
		b.close(l)
	}
	return in[n:]
}

// rest is what had come of an answer that will never be whole.
func (b *Beat) rest(l *Loop) []byte {
	if b == nil || !b.open() {
		return nil
	}
	part := []byte(b.conf.Expect[:b.matched])
	b.close(l)
	return part
}

func (b *Beat) close(l *Loop) {
	b.matched = 0
	b.since.Store(int64(l.Now()) << 1)
}

// MayAsk reports whether the peer of a side could answer: out is the pipe to
// it, in the one that reads it.
func MayAsk(side *Side, in, out *Pipe) bool {
	return side.Present() && !side.EOF && !side.FIN && !in.Holds() && !out.Holds()
}
