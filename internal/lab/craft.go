package lab

import (
	"encoding/binary"
	"net/netip"
)

// Craft is a TCP segment to be made by hand, in IPv4 or IPv6: what a test wants
// to put on a wire, right or wrong. It knows nothing of any TCP.
type Craft struct {
	SrcMAC, DstMAC MAC
	Src, Dst       netip.AddrPort
	Flags          Flags
	Seq, Ack       uint32
	Win            uint16
	Urgent         uint16
	Options        []byte // padded to a multiple of four with zeros
	Payload        []byte
	BadSum         bool   // the checksum is wrong
	IPOptions      []byte // of IPv4, a multiple of four
}

// Frame is the whole Ethernet frame.
func (c Craft) Frame() []byte {
	return ether(c.SrcMAC, c.DstMAC, c.packet(), c.Src.Addr())
}

// Fragments is the segment in frames with IP fragments of at most size bytes, a
// multiple of eight.
func (c Craft) Fragments(size int, id uint16) (frames [][]byte) {
	p, src, dst := c.packet(), c.Src.Addr(), c.Dst.Addr()
	header := 20 + len(c.IPOptions)
	if src.Is6() {
		header = 40
	}
	for at := 0; at < len(p)-header; at += size {
		data, more := p[header+at:], uint16(0)
		if len(data) > size {
			data, more = data[:size], 1
		}
		var piece []byte
		if src.Is6() {
			word := uint16(at) | more
			piece = append(ipHeader(src, dst, 44, 8+len(data)), 6, 0, byte(word>>8), byte(word), 0, 0, byte(id>>8), byte(id))
		} else {
			piece = append(ipHeader(src, dst, 6, len(c.IPOptions)+len(data)), c.IPOptions...)
			piece[0] += byte(len(c.IPOptions) / 4)
			binary.BigEndian.PutUint16(piece[4:], id)
			binary.BigEndian.PutUint16(piece[6:], uint16(at/8)|more<<13)
			piece[10], piece[11] = 0, 0
			binary.BigEndian.PutUint16(piece[10:], ^sum16(piece, 0))
		}
		frames = append(frames, ether(c.SrcMAC, c.DstMAC, append(piece, data...), src))
	}
	return frames
}

// packet is the IP packet.
func (c Craft) packet() []byte {
	tcp := c.tcp()
	p := ipHeader(c.Src.Addr(), c.Dst.Addr(), 6, len(c.IPOptions)+len(tcp))
	if len(c.IPOptions) > 0 {
		p[0] += byte(len(c.IPOptions) / 4)
		p = append(p, c.IPOptions...)
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^sum16(p, 0))
	}
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(tcp, pseudoSum(c.Src.Addr(), c.Dst.Addr(), 6, len(tcp))))
	if c.BadSum {
		tcp[17] ^= 1
	}
	return append(p, tcp...)
}

func (c Craft) tcp() []byte {
	options := append([]byte(nil), c.Options...)
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 20, 20+len(options)+len(c.Payload))
	binary.BigEndian.PutUint16(b, c.Src.Port())
	binary.BigEndian.PutUint16(b[2:], c.Dst.Port())
	binary.BigEndian.PutUint32(b[4:], c.Seq)
	binary.BigEndian.PutUint32(b[8:], c.Ack)
	b[12], b[13] = byte(5+len(options)/4)<<4, byte(c.Flags)
	binary.BigEndian.PutUint16(b[14:], c.Win)
	binary.BigEndian.PutUint16(b[18:], c.Urgent)
	return append(append(b, options...), c.Payload...)
}

// ICMP4 is an ICMP error of any type and code about this segment, from a router.
func (c Craft) ICMP4(router netip.Addr, kind, code byte) []byte {
	b := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, c.packet()[:28]...)
	binary.BigEndian.PutUint16(b[2:], ^sum16(b, 0))
	return ether(c.DstMAC, c.SrcMAC, append(ipHeader(router, c.Src.Addr(), 1, len(b)), b...), router)
}

// Unreachable is an ICMP error about this segment, from a router: IPv4's type 3
// or IPv6's type 1 with the code, or with mtu not 0 "packet too big".
func (c Craft) Unreachable(router netip.Addr, code byte, mtu uint16) []byte {
	quote := c.packet()
	b := make([]byte, 8, 8+len(quote))
	if c.Src.Addr().Is4() {
		quote = quote[:28] // IP's header and eight bytes (RFC 792)
		b[0], b[1] = 3, code
		if mtu != 0 {
			b[1] = 4
			binary.BigEndian.PutUint16(b[6:], mtu)
		}
		b = append(b, quote...)
		binary.BigEndian.PutUint16(b[2:], ^sum16(b, 0))
		return ether(c.DstMAC, c.SrcMAC, append(ipHeader(router, c.Src.Addr(), 1, len(b)), b...), router)
	}
	b[0], b[1] = 1, code
	if mtu != 0 {
		b[0], b[1] = 2, 0
		binary.BigEndian.PutUint32(b[4:], uint32(mtu))
	}
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[2:], ^sum16(b, pseudoSum(router, c.Src.Addr(), 58, len(b))))
	return ether(c.DstMAC, c.SrcMAC, append(ipHeader(router, c.Src.Addr(), 58, len(b)), b...), router)
}

func ether(src, dst MAC, packet []byte, ip netip.Addr) []byte {
	kind := uint16(0x0800)
	if ip.Is6() {
		kind = 0x86dd
	}
	f := append(append([]byte(nil), dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, kind), packet...)
}

func ipHeader(src, dst netip.Addr, protocol byte, size int) []byte {
	if src.Is6() {
		p := make([]byte, 8, 40)
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(size))
		return append(append(p, src.AsSlice()...), dst.AsSlice()...)
	}
	p := make([]byte, 12, 20)
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+size))
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(p[10:], ^sum16(p, 0))
	return p
}

// pseudoSum is the sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudoSum(src, dst netip.Addr, protocol byte, size int) uint16 {
	b := append(append(src.AsSlice(), dst.AsSlice()...), 0, protocol)
	return sum16(binary.BigEndian.AppendUint16(b, uint16(size)), 0)
}

// sum16 is the ones' complement sum of RFC 1071.
func sum16(b []byte, start uint16) uint16 {
	sum := uint32(start)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
