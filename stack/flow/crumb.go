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

// mssMost stands for the size of segments where the peer's SYN was not seen.
const mssMost = 1460

// told is what gVisor is told of the peer's window: nothing of a crumb, and never
// less than what it needs to send the oldest segment again that is unacknowledged.
// A window may have shrunk since that was sent (RFC 9293, 3.8.6, SHLD-16: the sender
// "SHOULD retransmit normally the old unacknowledged data between SND.UNA and
// SND.UNA+SND.WND", MAY-7: "old data beyond" too); gVisor would neither cut the
// segment nor wait for anything, as its timer is off then. A closed window stays
// closed: gVisor probes it.
func (f *Flow) told(window uint16) uint16 {
	if f.has(crumb) || window == 0 {
		return 0
	}
	shift := uint(max(f.sndScale, 0))
	mss := uint32(f.sndMSS)
	if mss == 0 {
		mss = mssMost
	}
	need := min(f.sndNxt-f.sndUna, mss)
	if need <= uint32(window)<<shift {
		return window
	}
	return uint16((need-1)>>shift + 1)
}
