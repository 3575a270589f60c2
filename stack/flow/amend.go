package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

// What is changed of a relayed segment on its way to gVisor, which would get it wrong
// as it is.

// outdated reports whether a segment carries a window that an earlier one has
// replaced. gVisor would take it. A pure ACK that was overtaken may be forgotten
// (RFC 9293, 3.10.7.4: "it can be ignored"); others lose their window only: data
// count, and a keepalive probe, which lies before what is next, wants its answer.
func (f *Flow) outdated(s *segment) bool {
	return s.is(ack|syn|rst, ack) && f.wl1 != 0 && !f.offersNew(s) && s.window != f.peerWindow
}

// crosses reports whether a segment is the SYN-ACK of a peer whose SYN has
// crossed ours: its ACK completes the connection (RFC 9293, 3.5, figure 8).
func (f *Flow) crosses(s *segment) bool {
	return f.state == SynReceived && f.has(dialled) && s.is(syn|ack|rst|fin, syn|ack) && s.seq == f.irs && s.ack == f.iss+1
}

// straighten makes an ACK of a SYN-ACK whose SYN is known already: gVisor takes
// no other, and would answer each of the peer's with an ACK.
func straighten(fr *frame.Frame, s *segment) {
	s.flags &^= syn
	s.seq++
	rewrite(fr, func(tcp []byte) {
		tcp[13] = s.flags
		binary.BigEndian.PutUint32(tcp[4:], s.seq)
	})
}

// overEdge reports whether a pure ACK lies past the window that we offer, and
// before the one that we offered earlier: what is offered counts in units of
// the scale, so the right edge may go back by less than one (RFC 7323, 2.4).
// gVisor refuses such an ACK. Once the window has closed, with bytes lost that
// were sent before, it would refuse every ACK of the peer and repeat its own
// data until it gives up.
func (f *Flow) overEdge(s *segment) bool {
	if f.rcvScale <= 0 || !s.is(ack|syn|rst|fin, ack) || s.length() > 0 {
		return false
	}
	edge := f.rcvNxt + f.offered()
	return after(s.seq, edge) && before(s.seq, edge+1<<uint(f.rcvScale))
}

// rewrite changes the TCP header of a segment.
func rewrite(fr *frame.Frame, change func(tcp []byte)) {
	l, ok := frame.Parse(fr.Net)
	if !ok {
		return
	}
	change(fr.Net[l.Transport:l.End])
	resum(fr, l)
}

// resum makes the checksum of a segment that was changed right, unless it is
// still to be made.
func resum(fr *frame.Frame, l frame.Layout) {
	if fr.Meta.Flags&frame.NeedsCsum != 0 {
		return
	}
	tcp := fr.Net[l.Transport:l.End]
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], l.TransportSum(fr.Net))
}
