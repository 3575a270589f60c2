package flow

// crumbMost is for how long a crumb of a window is left alone, in milliseconds:
// RFC 9293, 3.8.6.2.1 wants an override timeout of 0.1 to 1 s.
const crumbMost = 100

// crumbs reports whether a window is too small to be filled when nothing is on
// its way: less than a segment, and less than half of the largest that the peer
// ever offered.
func (f *Flow) crumbs(wnd uint32) bool {
	return wnd < uint32(f.sndMSS) && wnd < f.maxSndWnd/2
}

// leaveCrumb decides whether an open window is left alone for now: gVisor cuts a
// segment to any window when nothing is on its way (RFC 9293, 3.8.6.2.1: "MUST
// include a SWS avoidance algorithm in the sender"), so it is told that the
// window is closed. It probes, and by the time the answer comes the window
// counts. Who sends on a carried connection decides for himself.
func (f *Flow) leaveCrumb(wnd, ack uint32, now instant) bool {
	waits := f.has(crumb)
	f.flags &^= crumb
	if f.has(carried) || ack != f.sndNxt || !f.crumbs(wnd) || waits && now.ms-f.closedWnd >= crumbMost {
		return false
	}
	f.flags |= crumb
	if !waits {
		f.closedWnd = 0 // from now on
	}
	return true
}

// pastWindow reports whether a RST of the stack's lies beyond the window that the peer
// offers, which has shrunk since bytes were sent into it. The peer would drop it
// without a word (RFC 5961, 3.2). gVisor minds that itself, but not where the stack has
// lent it a window to send the oldest segment again.
func (f *Flow) pastWindow(seq uint32) bool {
	return f.state.synchronized() && !f.has(blind) && after(seq, f.sndUna+f.sndWnd)
}
