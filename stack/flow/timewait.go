package flow

import "github.com/lastack/lastack/netif/frame"

// inTimeWait answers for a connection whose endpoint is gone (RFC 9293,
// 3.10.7.4, TIME-WAIT STATE). Nothing reaches gVisor but a SYN that opens a
// new connection.
func (t *Table) inTimeWait(c *Card, sh *shard, f *Flow, slot uint32, fr *frame.Frame, s *segment, now instant) (a answer, v frame.Verdict) {
	switch {
	case s.flags&rst != 0:
		t.Count.TimeWaitRST.Add(1) // RFC 1337, 3: fix F1. Consumed, not dropped: it was heard
		return a, frame.Consume
	case s.is(syn|ack|fin, syn):
		if t.mayReopen(f, s) && t.isnBeyond(f, now) {
			t.Count.Reused.Add(1)
			t.again(c, sh, f, slot, fr, s, now)
			return a, frame.Pass
		}
	case s.flags&ack == 0:
		return a, frame.Consume
	case s.flags&fin != 0 && s.end() == f.peerFin+1:
		// Our last ACK was lost: "acknowledge it, and restart the 2 MSL timeout".
		f.progress = now.ms
		sh.leaveQueue(f, slot)
		sh.joinQueue(f, slot)
		if f.peerFinAgain < 255 {
			f.peerFinAgain++
		}
	case s.length() == 0 && s.seq == f.rcvNxt:
		return a, frame.Consume // nothing in it that wants an answer
	}
	if !f.mayChallenge(now) {
		return a, frame.Consume
	}
	t.Count.TimeWaitACK.Add(1)
	return f.answer(now), frame.Reply
}

// mayReopen reports whether a SYN may take the ports over: its timestamp or its
// sequence number lies beyond all that the old connection used (RFC 6191, 2;
// RFC 9293, 3.6.1).
func (t *Table) mayReopen(f *Flow, s *segment) bool {
	if t.policy(f.policy).TimeWait.Reuse == "never" {
		return false
	}
	switch {
	case s.ts && !f.has(timestamps):
		return true // nothing of the old connection has one, so nothing of it will be taken
	case s.ts && s.tsVal != f.tsRecent:
		return after(s.tsVal, f.tsRecent)
	}
	return !before(s.seq, f.rcvNxt)
}

// isnBeyond reports whether the number that is chosen next lies beyond
// all that the old connection has sent (RFC 9293, 3.6.1): both choose by a clock of 64
// nanoseconds, the table and gVisor, and who has sent more than 125 Mbit/s is ahead of
// that. A peer that is refused tries again a second later. Of an old connection whose
// number is not from this process's gVisor nothing is known.
func (t *Table) isnBeyond(f *Flow, now instant) bool {
	switch {
	case f.has(direct):
		return after(t.isn(&f.key, now), f.sndNxt)
	case f.iss == 0, f.began < t.born:
		return true
	}
	return after(f.iss+uint32((now.ns-f.began)>>6), f.sndNxt)
}
