package flow

// Flow is one connection as its segments tell, seen from our end. It holds no
// pointer, so that a million of them cost the garbage collector nothing, and
// its size is bounded by a test: 256 bytes, what Linux spends on TIME-WAIT
// alone. Its shard's lock guards it.
//
//	            our SYN          SYN-SENT -----------------+
//	                                 |                     | SYN-ACK, and our ACK
//	the peer's SYN    SYN-RECEIVED --+-> ESTABLISHED <-----+
//	                            our FIN /        \ the peer's FIN, acknowledged
//	                         FIN-WAIT-1           CLOSE-WAIT
//	       its ACK /    | the peer's FIN               | our FIN
//	       FIN-WAIT-2   CLOSING                     LAST-ACK
//	the peer's FIN \    | its ACK                      | its ACK
//	                TIME-WAIT -- duration --> CLOSED <-+
//
// Only enter changes the state.
type Flow struct {
	key   key
	hash  uint32 // lower half of the key's hash
	id    uint64 // of the stack's connection; 0 until it is adopted
	began int64  // nanoseconds of the table's clock

	iss, irs       uint32 // initial sequence numbers
	sndUna, sndNxt uint32 // RFC 9293, 3.3.1
	rcvNxt         uint32 // the last acknowledgement we sent
	sndWnd         uint32 // what the peer offers, in bytes
	maxSndWnd      uint32 // the largest it ever offered (RFC 5961, 5.2: MAX.SND.WND)
	wl1, wl2       uint32 // of the segment that last set the window (RFC 9293, 3.3.1: SND.WL1, SND.WL2)
	finSeq         uint32 // sequence number of our FIN
	peerFin        uint32 // sequence number of the peer's FIN
	tsRecent       uint32 // RFC 7323, 4.3: TS.Recent
	tsRecentAt     uint32 // milliseconds of the table, when it was set
	tsLast         uint32 // the last timestamp we sent
	tsLastAt       uint32

	entered   [states]uint32 // milliseconds after began when each state was entered, plus one; 0: never
	progress  uint32         // milliseconds of the table: last time the current state began, bytes came or were acknowledged
	closedWnd uint32         // milliseconds of the table: since when the peer's window is closed
	finAt     uint32         // milliseconds of the table: our first FIN
	finTook   uint32         // milliseconds until it was acknowledged
	due       uint32         // milliseconds of the table: when the wheel looks at it next

	next, prev   uint32 // in its list of the wheel, as slot+1; 0: none
	newer, older uint32 // in its queue of those in TIME-WAIT, as slot+1; 0: none

	flags          flags
	rcvMSS, sndMSS uint16
	window         uint16 // as last sent in a header of ours
	peerWindow     uint16 // as in the header of the segment that last set sndWnd
	vlan           uint16
	policy         uint16
	spoke          uint16 // the list of the wheel it is in
	challenge      uint16 // second of the table in which challenges were counted
	state          State
	counted        uint8 // what the table counts it as
	card           uint8
	rcvScale       int8
	sndScale       int8
	finRetrans     uint8
	repeats        uint8 // of the oldest unacknowledged segment
	synRetrans     uint8
	peerFinAgain   uint8
	guarded        uint8
	challenges     uint8 // sent in that second
	endedBy        uint8 // index in limitRules plus one
	soft           hint
	timed          bool // it is in the wheel
	mac            [6]byte
}

// flags are the yes-or-no facts of a Flow.
type flags uint32

const (
	dialled      flags = 1 << iota
	finSent            // ours
	finAcked           // ours
	peerFinSeen        // received; acknowledged only once the state says so
	finFirstUs         // our FIN went before the peer's came
	finFirstPeer       //
	rstSent            //
	rstSeen            // a RST within the window came
	timestamps         // agreed: both SYNs had the option
	sackOK             // agreed
	peerTS             // the peer's SYN offered timestamps
	peerSACK           //
	synsSeen           // both SYNs passed here
	released           // the stack's connection was let go of
	zeroWindow         // the peer's window is closed and we have tried to send
	tagged             // its frames carry an 802.1Q tag
	blind              // its handshake was not seen: a SYN cookie's, in a flood
	crumb              // the peer's window is open by so little that gVisor is told of none
	holding            // what the peer sends is held back: see hold.go
	carried            // it is a leg of a carried connection, and those below are only of one: see carried.go
	direct             // from the first SYN on
	shut               // the peers are told that our windows are closed, until nothing is under way
	turning            // it is to be parted between an answer and the next request
	parted             // the table ends it: nothing is passed on any more
	answeredLast       // of the client's leg: what moved last went to the client
)

func (f *Flow) has(x flags) bool { return f.flags&x != 0 }

// enter moves the flow to a state.
func (f *Flow) enter(s State, now instant) {
	f.state, f.progress = s, now.ms
	if f.entered[s] == 0 {
		f.entered[s] = uint32((now.ns-f.began)/1e6) + 1
	}
}

// instant is a time of the table's clock.
type instant struct {
	ns int64
	ms uint32 // the same in milliseconds, modulo 2^32: 49 days
}

// sent notes a segment of ours.
func (f *Flow) sent(s *segment, now instant) {
	if s.ts && (!f.has(carried) || s.flags&syn != 0 || !before(s.tsVal, f.tsLast)) {
		f.tsLast, f.tsLastAt = s.tsVal, now.ms // a carried segment may have been overtaken
	}
	if s.flags&rst != 0 {
		if !f.state.synchronized() && s.seq != f.sndNxt {
			return // in answer to a segment that is none of this connection's
		}
		f.flags |= rstSent
		f.enter(Closed, now)
		return
	}
	if overtaken := f.has(carried) && s.is(syn|ack, ack) && before(s.ack, f.rcvNxt); !overtaken {
		f.window = s.window
	}
	if s.flags&syn != 0 {
		f.sentSYN(s, now)
		return
	}
	if f.has(blind) {
		f.learn(s, now)
	}
	if f.state == SynSent && s.flags&ack != 0 {
		f.taken(s, now)
	}
	if s.length() > 0 && s.seq == f.sndUna && before(s.seq, f.sndNxt) && f.repeats < 255 {
		f.repeats++
	}
	if f.sndUna == f.sndNxt && after(s.end(), f.sndNxt) {
		f.progress, f.repeats = now.ms, 0 // the age of the oldest byte begins, keepalive ends
	}
	if after(s.end(), f.sndNxt) {
		f.sndNxt = s.end()
	}
	if s.flags&ack != 0 {
		f.acknowledged(s.ack, now) // before our FIN: one segment may be both
	}
	if s.flags&fin != 0 {
		f.sentFIN(s, now)
	}
	if f.sndWnd == 0 && s.size > 0 && !f.has(zeroWindow) && f.state.synchronized() {
		f.flags |= zeroWindow // it was closed before: closedWnd knows since when
	}
}

// taken notes by the stack's ACK that it has taken the peer's SYN-ACK, and which
// one. One that has passed here may be lost before gVisor all the same: until gVisor
// acknowledges it, each is for gVisor to answer, because an ACK of ours would end the
// peer's handshake, and what it says then is no answer to a SYN.
func (f *Flow) taken(s *segment, now instant) {
	f.irs, f.rcvNxt, f.sndUna = s.ack-1, s.ack, s.seq
	f.agree(f.tsLastAt != 0 || f.tsLast != 0, true)
	f.enter(Established, now)
}

// learn begins to follow a connection in the middle, by the first segment that
// we send in it.
func (f *Flow) learn(s *segment, now instant) {
	f.flags &^= blind
	f.iss, f.sndUna, f.sndNxt, f.rcvNxt = s.seq-1, s.seq, s.seq, s.ack
	f.maxSndWnd = 1<<16 - 1 // at most: a SYN cookie keeps no scale
	if s.ts {
		f.flags |= timestamps
		f.tsRecent, f.tsRecentAt = s.tsEcr, now.ms
	}
}

// sentSYN notes our SYN or SYN-ACK. One of another number is a new try: SYN
// cookies choose their own.
func (f *Flow) sentSYN(s *segment, now instant) {
	sent := f.state == SynSent && s.flags&ack == 0 || f.has(synsSeen) && s.flags&ack != 0
	if sent && s.seq == f.iss && f.synRetrans < 255 {
		f.synRetrans++
	}
	if f.has(carried) && !f.answered() {
		f.finAt = now.ms
	}
	f.iss, f.sndUna, f.sndNxt = s.seq, s.seq, s.end()
	f.rcvMSS, f.rcvScale = s.mss, s.scale
	if s.flags&ack == 0 {
		f.enter(SynSent, now)
		return
	}
	f.rcvNxt, f.irs = s.ack, s.ack-1 // which of several SYNs gVisor has taken
	f.agree(s.ts, s.sack)
	f.scaleWindow()
	f.enter(SynReceived, now)
}

// scaleWindow makes the window of our SYN, which is not scaled, one of the segments
// that follow (RFC 7323, 2.2): in a challenge it would be up to 16,384 times as much.
func (f *Flow) scaleWindow() { f.window >>= uint(max(f.rcvScale, 0)) }

// offered is the window that we have told the peer last, in bytes.
func (f *Flow) offered() uint32 { return uint32(f.window) << uint(max(f.rcvScale, 0)) }

// agree settles the options that both SYNs must offer.
func (f *Flow) agree(ts, sack bool) {
	f.flags = f.flags&^(timestamps|sackOK) | synsSeen
	if ts && f.has(peerTS) {
		f.flags |= timestamps
	}
	if sack && f.has(peerSACK) {
		f.flags |= sackOK
	}
	if f.rcvScale == noScale || f.sndScale == noScale {
		f.sndScale, f.rcvScale = noScale, noScale // RFC 7323, 2.2: both or none
	}
}

func (f *Flow) sentFIN(s *segment, now instant) {
	if f.has(finSent) {
		if f.finRetrans < 255 {
			f.finRetrans++
		}
		return
	}
	f.flags |= finSent
	if !f.has(peerFinSeen) {
		f.flags |= finFirstUs
	}
	f.finSeq, f.finAt = s.end()-1, now.ms
	switch f.state {
	case Established, SynReceived:
		f.enter(FinWait1, now)
	case CloseWait:
		f.enter(LastAck, now)
	}
}

// acknowledged notes how far we have acknowledged the peer's bytes.
func (f *Flow) acknowledged(n uint32, now instant) {
	if !before(n, f.rcvNxt) {
		f.rcvNxt = n
	}
	if !f.has(peerFinSeen) || f.rcvNxt != f.peerFin+1 {
		return
	}
	switch f.state {
	case Established:
		f.enter(CloseWait, now)
	case FinWait1:
		f.enter(Closing, now)
	case FinWait2:
		f.enter(TimeWait, now)
	}
}

// receivedSYN notes the peer's SYN or SYN-ACK.
func (f *Flow) receivedSYN(s *segment, now instant) {
	f.irs, f.rcvNxt = s.seq, s.seq+1
	f.sndMSS, f.sndScale = s.mss, s.scale
	f.sndWnd = uint32(s.window)
	f.maxSndWnd = max(f.maxSndWnd, f.sndWnd)
	if !f.has(carried) {
		f.wl1, f.wl2, f.peerWindow = s.seq, s.ack, s.window
	}
	f.flags &^= peerTS | peerSACK
	if s.ts {
		f.flags |= peerTS
		f.tsRecent, f.tsRecentAt = s.tsVal, now.ms
	}
	if s.sack {
		f.flags |= peerSACK
	}
	switch {
	case f.state == SynSent && s.flags&ack != 0 && f.has(carried): // else the stack has to take it: see taken
		f.sndUna = s.ack
		f.agree(f.tsLastAt != 0 || f.tsLast != 0, true)
		f.scaleWindow()
		f.enter(Established, now)
	case f.state == Closed:
		f.enter(SynReceived, now)
	}
}

// acknowledges reports whether an ACK ends our handshake (RFC 9293, 3.10.7.4, fifth
// check): SND.UNA < SEG.ACK =< SND.NXT. A SYN-ACK may have had data, and gVisor goes
// by any segment.
func (f *Flow) acknowledges(s *segment) bool { return after(s.ack, f.iss) && !after(s.ack, f.sndNxt) }

// received notes a segment of the peer's that the guard let pass.
func (f *Flow) received(s *segment, now instant) {
	if f.state == SynReceived {
		if s.flags&ack == 0 || !f.acknowledges(s) { // what was sent before it may be lost
			return
		}
		f.enter(Established, now)
	}
	f.stamped(s, now)
	if f.has(carried) {
		f.heard(now)
	}
	if s.size > 0 && after(s.end(), f.rcvNxt) {
		f.progress = now.ms // not by the byte that a keepalive probe may have (RFC 9293, 3.8.4)
	}
	if s.flags&fin != 0 && !f.has(peerFinSeen) {
		f.flags |= peerFinSeen
		f.peerFin = s.end() - 1
		if !f.has(finSent) {
			f.flags |= finFirstPeer
		}
	}
	if s.flags&ack != 0 {
		f.receivedACK(s, now)
	}
}

// stamped notes the peer's timestamp (RFC 7323, 4.3 (2)): only what lies at or
// before the last acknowledgement may set it.
func (f *Flow) stamped(s *segment, now instant) {
	if f.has(timestamps) && s.ts && !before(s.tsVal, f.tsRecent) && !after(s.seq, f.rcvNxt) {
		f.tsRecent, f.tsRecentAt = s.tsVal, now.ms
	}
}

// receivedACK notes how far the peer has acknowledged us, and its window.
func (f *Flow) receivedACK(s *segment, now instant) {
	if f.offersNew(s) {
		f.offer(s, now)
	}
	if !after(s.ack, f.sndUna) || after(s.ack, f.sndNxt) {
		return
	}
	if f.has(carried) {
		f.count(s.ack)
	}
	f.sndUna, f.progress, f.repeats, f.soft = s.ack, now.ms, 0, noHint
	if !f.has(finSent) || f.has(finAcked) || s.ack != f.finSeq+1 {
		return
	}
	f.flags |= finAcked
	f.finTook = now.ms - f.finAt
	switch f.state {
	case FinWait1:
		f.enter(FinWait2, now)
	case Closing:
		f.enter(TimeWait, now)
	case LastAck:
		f.enter(Closed, now)
	}
}

// offersNew reports whether a segment's window is newer than the one that is
// known (RFC 9293, 3.10.7.4, fifth check): an old segment must not set it.
func (f *Flow) offersNew(s *segment) bool {
	if f.has(carried) {
		return !before(s.ack, f.sndUna) // the other peer judges by itself
	}
	return !before(s.ack, f.sndUna) && (before(f.wl1, s.seq) || f.wl1 == s.seq && !after(f.wl2, s.ack))
}

// scaled is the window of a segment of the peer's that is no SYN, in bytes.
func (f *Flow) scaled(s *segment) uint32 { return uint32(s.window) << uint(max(f.sndScale, 0)) }

// offer notes the peer's window.
func (f *Flow) offer(s *segment, now instant) {
	if !f.has(carried) {
		f.wl1, f.wl2, f.peerWindow = s.seq, s.ack, s.window
	}
	wnd := f.scaled(s)
	closed := wnd == 0
	if !closed {
		f.flags &^= zeroWindow
		closed = !f.has(carried) && f.leaveCrumb(wnd, s.ack, now)
	}
	switch {
	case !closed:
		f.closedWnd = 0
	case f.closedWnd == 0 || wnd == 0 && f.sndWnd != 0:
		f.closedWnd = max(now.ms, 1)
	}
	f.sndWnd = wnd
	f.maxSndWnd = max(f.maxSndWnd, wnd)
}

// unacked counts bytes sent and not acknowledged, SYN and FIN left out.
func (f *Flow) unacked() uint32 {
	n := f.sndNxt - f.sndUna
	if f.has(finSent) && !f.has(finAcked) && n > 0 {
		n--
	}
	if !f.state.synchronized() {
		return 0
	}
	return n
}
