package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

// answer is an ACK, a FIN, a SYN or a RST without data that the table sends by
// itself.
type answer struct {
	rst      bool // no ACK, unless acked
	acked    bool // a RST or a SYN with ACK
	fin      bool
	syn      []byte // options of a SYN, which has no ACK unless acked; nil is none
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

// synACK is our SYN-ACK once more: the peer repeats its SYN, so the first was lost
// (RFC 9293, 3.8.1). gVisor would send an ACK alone, which tells the peer nothing, and
// repeat the SYN-ACK by its own timer.
func (f *Flow) synACK(now instant) answer {
	s := segment{
		mss: f.rcvMSS, scale: f.rcvScale, sack: f.has(sackOK),
		ts: f.has(timestamps), tsVal: f.stampNow(now), tsEcr: f.tsRecent,
	}
	return answer{acked: true, seq: f.iss, ack: f.irs + 1, window: uint16(min(f.offered(), 0xffff)), syn: synOptions(&s)}
}

const (
	tsOption    = 12 // bytes, with two of padding before (RFC 7323, appendix A)
	optionsMost = 20 // of a SYN of ours
)

// size is that of the TCP header.
func (a *answer) size() int {
	switch {
	case a.syn != nil:
		return tcpHeader + len(a.syn)
	case a.ts:
		return tcpHeader + tsOption
	}
	return tcpHeader
}

// put writes the TCP segment, with its checksum, to the peer of a key.
func (a *answer) put(p []byte, k *key) {
	size := a.size()
	p = p[:size]
	clear(p)
	binary.BigEndian.PutUint16(p, k.lport)
	binary.BigEndian.PutUint16(p[2:], k.rport)
	binary.BigEndian.PutUint32(p[4:], a.seq)
	binary.BigEndian.PutUint32(p[8:], a.ack)
	p[12], p[13] = byte(size/4)<<4, a.flags()
	binary.BigEndian.PutUint16(p[14:], a.window)
	if a.syn != nil {
		copy(p[tcpHeader:], a.syn)
	} else if a.ts {
		copy(p[tcpHeader:], []byte{1, 1, 8, 10})
		binary.BigEndian.PutUint32(p[24:], a.tsVal)
		binary.BigEndian.PutUint32(p[28:], a.tsEcr)
	}
	binary.BigEndian.PutUint16(p[16:], ^frame.Sum(p, k.pseudo(size)))
}

func (a *answer) flags() uint8 {
	switch {
	case a.syn != nil && a.acked:
		return syn | ack
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

// write turns the frame of a segment of the key's peer round and makes it the
// answer.
func (a *answer) write(f *frame.Frame, k *key, m mark) {
	var mac [6]byte
	copy(mac[:], f.Eth[:6])
	copy(f.Eth[:6], f.Eth[6:12])
	copy(f.Eth[6:12], mac[:])
	p := make([]byte, ipMost+a.size())
	at := m.put(p, k, a.size())
	a.put(p[at:], k)
	f.Net = p[:at+a.size()]
	f.Meta = frame.Header{}
}
