package flow

import "net/netip"

// ResendFunc asks the stack whether it still means to send again what a connection
// has unacknowledged. If no timer of it runs, it starts one and reports true.
type ResendFunc func(local, remote netip.AddrPort) bool

// The table looks at a relayed connection whose peer has acknowledged nothing for
// lookAfter, and again after half of the time that this has lasted then, at most
// lookMost. It is where RFC 6298, 2.1, lets the RTO begin; gVisor's timer, which runs
// in all but one case of a million, is asked and not disturbed, so that looking early
// costs little and harms nobody.
const (
	lookAfter = 1000 // milliseconds
	lookMost  = 5000
)

// unanswered reports whether something that the stack has sent is unacknowledged.
func (f *Flow) unanswered() bool {
	return f.state.synchronized() && f.sndUna != f.sndNxt && !f.has(carried)
}

// nextLook is when the table looks at what is unacknowledged.
func (f *Flow) nextLook(now instant) uint32 {
	return now.ms + min(max((now.ms-f.progress)/2, lookAfter), lookMost)
}

// watch makes the table look at a flow that has just sent something. Usually it is
// to be looked at soon enough already.
func (t *Table) watch(sh *shard, f *Flow, slot uint32, now instant) {
	if f.timed && int32(f.due-now.ms) <= lookAfter || !f.unanswered() {
		return
	}
	sh.time(f, slot, f.nextLook(now), now.ms)
	t.wind()
}

// hasten asks the stack, without any lock of a shard, to send again what a connection
// has unacknowledged.
func (t *Table) hasten(k *key) {
	if t.resend != nil && t.resend(k.localAddr(), k.remoteAddr()) {
		t.Count.Stalls.Add(1)
	}
}
