package frame

import (
	"encoding/binary"
	"math/bits"
)

// EtherTypes and IP protocol numbers the driver tells apart.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd

	ProtoTCP = 6
	ProtoUDP = 17
)

// Sum adds the ones' complement sum of b (RFC 1071) to initial, which holds a
// sum folded to 16 bits, and folds the result to 16 bits.
func Sum(b []byte, initial uint16) uint16 {
	// Ones' complement addition does not depend on byte order (RFC 1071,
	// section 2 B), so the bulk is added eight bytes at a time.
	var acc, c uint64
	for len(b) >= 64 {
		_ = b[63]
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[32:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[40:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[48:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	acc, c = bits.Add64(acc, binary.BigEndian.Uint64(tail[:]), c)
	acc, c = bits.Add64(acc, uint64(initial), c)
	acc += c // cannot carry again: acc is 0 when the line above carried out of all ones
	return fold(acc)
}

func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// Layout says where the parts of an IP packet are.
type Layout struct {
	Version   uint8 // 4 or 6
	Protocol  uint8 // of the transport header at Transport
	Fragment  bool  // one piece of a larger packet: Transport may not be a header
	Transport int   // offset of the transport header in the packet
	End       int   // end of the packet: what follows is link padding
}

// Parse finds the parts of the IP packet in p. It reports false for a packet
// that is no whole IPv4 or IPv6 packet, or whose IPv4 header checksum is wrong.
func Parse(p []byte) (Layout, bool) {
	if len(p) < 20 {
		return Layout{}, false
	}
	switch p[0] >> 4 {
	case 4:
		return parse4(p)
	case 6:
		return parse6(p)
	}
	return Layout{}, false
}

func parse4(p []byte) (Layout, bool) {
	header := int(p[0]&15) * 4
	total := int(binary.BigEndian.Uint16(p[2:]))
	if header < 20 || total < header || total > len(p) || Sum(p[:header], 0) != 0xffff {
		return Layout{}, false
	}
	const moreAndOffset = 0x3fff
	return Layout{
		Version:   4,
		Protocol:  p[9],
		Fragment:  binary.BigEndian.Uint16(p[6:])&moreAndOffset != 0,
		Transport: header,
		End:       total,
	}, true
}

// IPv6 extension headers that may stand before the transport header (RFC 8200, section 4.1).
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	destination = 60
)

func parse6(p []byte) (Layout, bool) {
	const header = 40
	if len(p) < header {
		return Layout{}, false
	}
	l := Layout{Version: 6, Protocol: p[6], Transport: header, End: header + int(binary.BigEndian.Uint16(p[4:]))}
	if l.End > len(p) {
		return Layout{}, false
	}
	for {
		switch l.Protocol {
		case hopByHop, routing, destination:
			if l.Transport+8 > l.End {
				return Layout{}, false
			}
			next := l.Transport + 8 + int(p[l.Transport+1])*8
			l.Protocol, l.Transport = p[l.Transport], next
		case fragment:
			if l.Transport+8 > l.End {
				return Layout{}, false
			}
			l.Fragment = true
			l.Protocol, l.Transport = p[l.Transport], l.Transport+8
			return l, true
		default:
			return l, l.Transport <= l.End
		}
	}
}

// pseudo is the sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
func (l Layout) pseudo(p []byte) uint16 {
	addresses := p[12:20]
	if l.Version == 6 {
		addresses = p[8:40]
	}
	size := l.End - l.Transport
	tail := [8]byte{2: byte(size >> 8), 3: byte(size), 7: l.Protocol}
	return Sum(tail[:], Sum(addresses, 0))
}

// TransportValid verifies the TCP or UDP checksum of a whole packet. Other
// protocols are valid here: the stack checks ICMP itself.
func (l Layout) TransportValid(p []byte) bool {
	body := p[l.Transport:l.End]
	switch l.Protocol {
	case ProtoTCP:
		if len(body) < 20 {
			return false
		}
	case ProtoUDP:
		if len(body) < 8 {
			return false
		}
		// RFC 768: no checksum was made. RFC 8200, 8.1 forbids that in IPv6.
		if body[6] == 0 && body[7] == 0 {
			return l.Version == 4
		}
	default:
		return true
	}
	return Sum(body, l.pseudo(p)) == 0xffff
}

// Complete stores the checksum that a NeedsCsum frame still owes. p is the
// network packet; it reports false when the metadata points outside it.
func Complete(m *Header, p []byte) bool {
	start := int(m.CsumStart) - EthernetSize
	field := start + int(m.CsumOffset)
	if start < 0 || field+2 > len(p) || m.CsumOffset&1 != 0 {
		return false
	}
	sum := ^Sum(p[start:], 0)
	if sum == 0 {
		sum = 0xffff // RFC 768: a UDP sum of zero is sent as all ones; TCP treats both alike
	}
	binary.BigEndian.PutUint16(p[field:], sum)
	m.Flags &^= NeedsCsum
	return true
}

// TransportSum is the TCP or UDP checksum of the whole packet p, whose own
// checksum field must be zero.
func (l Layout) TransportSum(p []byte) uint16 {
	return ^Sum(p[l.Transport:l.End], l.pseudo(p))
}
