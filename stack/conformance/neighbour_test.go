package conformance

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/lastack/lastack/internal/lab"
)

// announce tells the box where the peer is, before it has to ask.
func (p *peer) announce() {
	p.Helper()
	if p.from.Addr().Is4() {
		p.frame(p.arp(1, lab.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
		return
	}
	p.frame(p.solicit())
}

// arp is a request or a reply (RFC 826) from the peer to the box.
func (p *peer) arp(op uint16, to lab.MAC) []byte {
	f := append(append(append([]byte(nil), to...), p.b.peerMAC...), 8, 6)
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, op)
	f = append(append(f, p.b.peerMAC...), p.from.Addr().AsSlice()...)
	return append(append(f, make([]byte, 6)...), p.to.Addr().AsSlice()...)
}

// solicit asks for the box's address, which tells ours (RFC 4861, 7.2.3).
func (p *peer) solicit() []byte {
	return p.icmp6(p.to.Addr(), 135, 0, append(p.to.Addr().AsSlice(), append([]byte{1, 1}, p.b.peerMAC...)...))
}

// neighbour answers who asks for the peer's address.
func (p *peer) neighbour(f []byte) {
	p.Helper()
	addr := p.from.Addr().AsSlice()
	switch {
	case len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && bytes.Equal(f[38:42], addr):
		p.frame(p.arp(2, p.b.mac))
	case len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58 && f[54] == 135 && bytes.Equal(f[62:78], addr):
		p.frame(p.icmp6(netip.AddrFrom16([16]byte(f[22:38])), 136, 0x60, append(addr, append([]byte{2, 1}, p.b.peerMAC...)...)))
	}
}

// icmp6 is a message of neighbour discovery, with its hop limit of 255.
func (p *peer) icmp6(to netip.Addr, kind, flags byte, rest []byte) []byte {
	m := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, rest...)
	from := p.from.Addr().AsSlice()
	pseudo := append(append(append([]byte(nil), from...), to.AsSlice()...), 0, 0, 0, byte(len(m)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(m[2:], ^sum(append(pseudo, m...)))
	f := append(append(append([]byte(nil), p.b.mac...), p.b.peerMAC...), 0x86, 0xdd)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(m)), 58, 255)
	return append(append(append(f, from...), to.AsSlice()...), m...)
}

// sum is the ones' complement sum of an even number of bytes (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
