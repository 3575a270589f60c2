package services

import (
	"time"

	"github.com/lastack/lastack/config"
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
// Only the session's loop uses it. The zero Beat asks nothing.
type Beat struct {
	conf    *config.Heartbeat
	open    bool          // a question waits for its answer
	asked   time.Duration // when it was asked last
	quiet   time.Duration // when the last answer came
	matched int           // bytes of Expect that have come
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
func NewBeat(h *config.Heartbeat) Beat { return Beat{conf: h} }

// Look tells what is due. moved is when bytes last moved; at is when to look again.
func (b *Beat) Look(now, moved time.Duration) (what Due, at time.Duration) {
	if b.open {
		at = b.asked + b.conf.Timeout
		if now >= at {
			return DueDead, at
		}
		return DueLater, at
	}
	at = max(moved, b.quiet) + b.conf.Idle
	if now >= at {
		return DueAsk, now + b.conf.Idle // should it not be possible now
	}
	return DueLater, at
}

// Ask sends the question by the pipe to the peer, which holds what its
// connection doesn't take, and says when to look again.
func (b *Beat) Ask(l *Loop, out *Pipe, now time.Duration) (at time.Duration, err error) {
	b.open, b.asked, b.matched = true, now, 0
	return now + b.conf.Timeout, out.inject(l, b.conf.Send)
}

// hear takes the answer out of what has arrived and returns what is to be
// passed on. The peer may split its answer anywhere.
func (b *Beat) hear(l *Loop, in []byte) []byte {
	if b == nil || !b.open {
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
	if b == nil || !b.open {
		return nil
	}
	part := []byte(b.conf.Expect[:b.matched])
	b.close(l)
	return part
}

func (b *Beat) close(l *Loop) { b.open, b.matched, b.quiet = false, 0, l.Now() }

// Asks reports whether the Beat asks at all.
func (b *Beat) Asks() bool { return b.conf != nil }

// MayAsk reports whether the peer of a side could answer: out is the pipe to
// it, in the one that reads it.
func MayAsk(side *Side, in, out *Pipe) bool {
	return side.Present() && !side.EOF && !side.FIN && !in.Holds() && !out.Holds()
}
