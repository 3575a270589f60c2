package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

// The TCP flags (RFC 9293, 3.1).
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
)

const (
	tcpHeader = 20
	mssIPv4   = 536  // RFC 9293, 3.7.1: what holds without an MSS option
	mssIPv6   = 1220 // the same for IPv6
	noScale   = -1
	maxScale  = 14 // RFC 7323, 2.3
)

// segment is what the table reads of a TCP segment, or of a super-frame of many.
type segment struct {
	key      key
	version  uint8
	flags    uint8
	window   uint16 // as in the header
	seq, ack uint32
	size     uint32 // bytes of data
	ts       bool   // has a timestamps option
	tsVal    uint32
	tsEcr    uint32
	mss      uint16 // of a SYN; the default without the option
	scale    int8   // of a SYN; noScale without the option
	sack     bool   // of a SYN: SACK permitted
	held     bool   // it was held back: see refresh
}

// end is the sequence number behind the segment: SYN and FIN count as one each.
func (s *segment) end() uint32 {
	n := s.seq + s.size
	if s.flags&syn != 0 {
		n++
	}
	if s.flags&fin != 0 {
		n++
	}
	return n
}

// length is SEG.LEN of RFC 9293: data, SYN and FIN.
func (s *segment) length() uint32 { return s.end() - s.seq }

// is reports whether of the flags in mask exactly those in want are set.
func (s *segment) is(mask, want uint8) bool { return s.flags&mask == want }

// readInbound reads a whole packet, whose layout the caller knows to be TCP
// and not a fragment.
func (s *segment) readInbound(p []byte, l frame.Layout) bool {
	if l.End-l.Transport < tcpHeader {
		return false
	}
	s.version = l.Version
	s.key.name(p, l.Version, p[l.Transport:], true)
	return s.readTCP(p[l.Transport:l.End], l.End-l.Transport)
}

// readOutbound reads the headers of a packet that gVisor made: no IP options.
// The data may be elsewhere.
func (s *segment) readOutbound(p []byte) bool {
	var at, size int
	switch {
	case len(p) >= 40 && p[0] == 0x45 && p[9] == frame.ProtoTCP:
		s.version, at, size = 4, 20, int(binary.BigEndian.Uint16(p[2:]))-20
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == frame.ProtoTCP:
		s.version, at, size = 6, 40, int(binary.BigEndian.Uint16(p[4:]))
	default:
		return false
	}
	s.key.name(p, s.version, p[at:], false)
	return s.readTCP(p[at:], size)
}

// readTCP reads the TCP header at the start of p. size counts header and data.
func (s *segment) readTCP(p []byte, size int) bool {
	header := int(p[12]>>4) * 4
	if header < tcpHeader || header > size || header > len(p) {
		return false
	}
	s.seq, s.ack = binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:])
	s.flags, s.window = p[13], binary.BigEndian.Uint16(p[14:])
	s.size = uint32(size - header)
	s.mss, s.scale = mssIPv4, noScale
	if s.version == 6 {
		s.mss = mssIPv6
	}
	s.readOptions(p[tcpHeader:header])
	return true
}

// readOptions reads the options up to the first that is malformed (RFC 9293,
// 3.1: "must be prepared to handle an illegal option length").
func (s *segment) readOptions(p []byte) {
	const end, nop, mss, scale, sackOK, timestamps = 0, 1, 2, 3, 4, 8
	for len(p) > 0 {
		if p[0] == nop {
			p = p[1:]
			continue
		}
		if p[0] == end || len(p) < 2 || p[1] < 2 || int(p[1]) > len(p) {
			return
		}
		body := p[2:p[1]]
		switch {
		case p[0] == timestamps && len(body) == 8:
			s.ts = true
			s.tsVal, s.tsEcr = binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
		case s.flags&syn == 0: // the others stand in a SYN only
		case p[0] == mss && len(body) == 2:
			s.mss = binary.BigEndian.Uint16(body)
		case p[0] == scale && len(body) == 1:
			s.scale = int8(min(body[0], maxScale))
		case p[0] == sackOK && len(body) == 0:
			s.sack = true
		}
		p = p[p[1]:]
	}
}

// before and after compare sequence numbers modulo 2^32 (RFC 9293, 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
func after(a, b uint32) bool  { return int32(a-b) > 0 }
