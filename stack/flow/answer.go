package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

// answer is an ACK, a FIN, a SYN or a RST without data that the table sends by
// itself.
type answer struct {
	rst      bool // no ACK, unless acked
	acked    bool // a RST with ACK
	fin      bool
	syn      []byte // options of a SYN, which has no ACK; nil is none
	seq, ack uint32
	window   uint16
	ts       bool
	tsVal    uint32
	tsEcr    uint32
}

// answer tells the peer where we are.
func (f *Flow) answer(now instant) answer {
	return answer{
		seq: f.sndNxt, ack: f.rcvNxt, window: f.window,
		ts: f.has(timestamps), tsVal: f.stampNow(now), tsEcr: f.tsRecent,
	}
}

// stampNow is the timestamp of a segment of the table's own. The clock that the
// peer of a carried connection sees is that of the other one, which may tick more
// slowly than ours: what we say must not be ahead of what that one says next, or
// the peer drops it (RFC 7323, 5.3 R1).
func (f *Flow) stampNow(now instant) uint32 {
	if f.has(carried) {
		return f.tsLast
	}
	return f.tsLast + now.ms - f.tsLastAt
}

const (
	tsOption    = 12 // bytes, with two of padding before (RFC 7323, appendix A)
	optionsMost = 20 // of a SYN of ours
)

// tcp writes the TCP header, without its checksum, and returns its size.
func (a *answer) tcp(p []byte, from, to uint16) int {
	size := tcpHeader
	binary.BigEndian.PutUint16(p, from)
	binary.BigEndian.PutUint16(p[2:], to)
	binary.BigEndian.PutUint32(p[4:], a.seq)
	binary.BigEndian.PutUint32(p[8:], a.ack)
	if a.syn != nil {
		size += copy(p[tcpHeader:], a.syn)
	} else if a.ts {
		size += tsOption
		copy(p[tcpHeader:], []byte{1, 1, 8, 10})
		binary.BigEndian.PutUint32(p[24:], a.tsVal)
		binary.BigEndian.PutUint32(p[28:], a.tsEcr)
	}
	p[12], p[13] = byte(size/4)<<4, a.flags()
	binary.BigEndian.PutUint16(p[14:], a.window)
	return size
}

func (a *answer) flags() uint8 {
	switch {
	case a.syn != nil:
		return syn
	case a.rst && a.acked:
		return rst | ack
	case a.rst:
		return rst
	case a.fin:
		return fin | ack
	}
	return ack
}

// write turns the frame round and makes it the answer.
func (a *answer) write(f *frame.Frame, l frame.Layout) {
	var mac [6]byte
	copy(mac[:], f.Eth[:6])
	copy(f.Eth[:6], f.Eth[6:12])
	copy(f.Eth[6:12], mac[:])
	p := f.Net
	from, to := binary.BigEndian.Uint16(p[l.Transport+2:]), binary.BigEndian.Uint16(p[l.Transport:])
	if l.Version == 4 {
		f.Net = a.packet4(p[16:20], p[12:16], from, to)
	} else {
		f.Net = a.packet6(p[24:40], p[8:24], from, to)
	}
	f.Meta = frame.Header{}
}

// packet4 makes an IPv4 packet of the answer.
func (a *answer) packet4(src, dst []byte, from, to uint16) []byte {
	p := make([]byte, 20+tcpHeader+optionsMost)
	n := 20 + a.tcp(p[20:], from, to)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(n))
	binary.BigEndian.PutUint16(p[6:], 0x4000) // may not be fragmented
	p[8], p[9] = 64, frame.ProtoTCP
	copy(p[12:], src)
	copy(p[16:], dst)
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	return summed(p[:n])
}

// packet6 makes an IPv6 packet of the answer.
func (a *answer) packet6(src, dst []byte, from, to uint16) []byte {
	p := make([]byte, 40+tcpHeader+optionsMost)
	n := a.tcp(p[40:], from, to)
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(n))
	p[6], p[7] = frame.ProtoTCP, 64
	copy(p[8:], src)
	copy(p[24:], dst)
	return summed(p[:40+n])
}

// summed puts the TCP checksum into a packet made here.
func summed(p []byte) []byte {
	if l, ok := frame.Parse(p); ok {
		binary.BigEndian.PutUint16(p[l.Transport+16:], l.TransportSum(p))
	}
	return p
}
