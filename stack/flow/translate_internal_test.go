package flow

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/lastack/lastack/netif/frame"
)

// parts is a TCP segment in its fields, from which the model makes another one
// anew. It shares nothing with what it is compared to but the names.
type parts struct {
	src, dst       netip.AddrPort
	seq, ack       uint32
	flags          byte
	window, urgent uint16
	options        []opt
	data           []byte
}

type opt struct {
	kind byte
	body []byte
}

// pack makes an IP packet of the parts with every checksum right.
func (p *parts) pack() []byte {
	var o []byte
	for _, one := range p.options {
		if one.kind == 1 {
			o = append(o, 1)
			continue
		}
		o = append(append(o, one.kind, byte(2+len(one.body))), one.body...)
	}
	for len(o)%4 != 0 {
		o = append(o, 1)
	}
	tcp := make([]byte, 20, 20+len(o)+len(p.data))
	binary.BigEndian.PutUint16(tcp, p.src.Port())
	binary.BigEndian.PutUint16(tcp[2:], p.dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], p.seq)
	binary.BigEndian.PutUint32(tcp[8:], p.ack)
	tcp[12], tcp[13] = byte((20+len(o))/4)<<4, p.flags
	binary.BigEndian.PutUint16(tcp[14:], p.window)
	binary.BigEndian.PutUint16(tcp[18:], p.urgent)
	tcp = append(append(tcp, o...), p.data...)
	var ip []byte
	if p.src.Addr().Is4() {
		ip = make([]byte, 20)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], p.src.Addr().AsSlice())
		copy(ip[16:], p.dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
	} else {
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], p.src.Addr().AsSlice())
		copy(ip[24:], p.dst.Addr().AsSlice())
	}
	pseudo := append(append([]byte(nil), p.src.Addr().AsSlice()...), p.dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(tcp)))
	pseudo = append(append(pseudo, 0, 0, 0, 6), tcp...)
	binary.BigEndian.PutUint16(tcp[16:], ^slowSum(pseudo))
	return append(ip, tcp...)
}

// slowSum is RFC 1071, word by word.
func slowSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if sum += w; sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// model is the segment that one of leg f becomes on leg m.
func model(p parts, f, m *Flow, mss uint16, closed bool) parts {
	out := parts{src: m.key.localAddr(), dst: m.key.remoteAddr(), flags: p.flags & 0x3f, urgent: p.urgent, data: p.data}
	isSYN, isACK := p.flags&syn != 0, p.flags&ack != 0
	// Byte n of the stream: irs+1+n there, iss+1+n here.
	out.seq = m.iss + 1 + (p.seq - (f.irs + 1))
	if isACK {
		out.ack = m.irs + 1 + (p.ack - (f.iss + 1))
	}
	if p.flags&urg == 0 {
		out.urgent = 0
	}
	out.window = p.window
	if !isSYN {
		bytes := uint64(p.window)
		for range max(int(f.sndScale), 0) {
			bytes *= 2
		}
		units := bytes
		for range max(int(m.rcvScale), 0) {
			units /= 2
		}
		if units == 0 && bytes > 0 {
			units = 1
		}
		out.window = uint16(min(units, 65535))
		if closed {
			out.window = 0
		}
	}
	for _, o := range p.options {
		body := append([]byte(nil), o.body...)
		keep := true
		switch {
		case o.kind == 1:
		case o.kind == 8:
			keep = m.has(timestamps)
			binary.BigEndian.PutUint32(body, binary.BigEndian.Uint32(body)+f.wl1)
			if isACK {
				binary.BigEndian.PutUint32(body[4:], binary.BigEndian.Uint32(body[4:])-m.wl1)
			}
		case o.kind == 5 && !isSYN:
			keep = m.has(sackOK)
			for i := 0; i < len(body); i += 4 {
				edge := binary.BigEndian.Uint32(body[i:])
				binary.BigEndian.PutUint32(body[i:], m.irs+1+(edge-(f.iss+1)))
			}
		case o.kind == 2 && isSYN:
			binary.BigEndian.PutUint16(body, min(binary.BigEndian.Uint16(body), mss))
		case (o.kind == 3 || o.kind == 4) && isSYN:
		default:
			keep = false
		}
		if keep {
			out.options = append(out.options, opt{o.kind, body})
			continue
		}
		for range 2 + len(o.body) {
			out.options = append(out.options, opt{kind: 1})
		}
	}
	return out
}

// TestTranslationIsTheModels compares the translation with the model, for random
// legs and segments.
func TestTranslationIsTheModels(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	for i := range n {
		f, m := randomLeg(rng), randomLeg(rng)
		p := randomParts(rng, f)
		if bad := translated(rng, &p, f, m); bad != "" {
			t.Fatalf("seed %d, case %d: %s\nsegment %+v\nfrom %+v\nto %+v", seed, i, bad, p, f, m)
		}
	}
}

func randomLeg(rng *rand.Rand) *Flow {
	addr := func() netip.AddrPort { return netip.AddrPortFrom(randomAddr(rng, true), uint16(rng.Uint32())) }
	local, remote := addr(), addr()
	if rng.IntN(2) == 0 {
		local = netip.AddrPortFrom(randomAddr(rng, false), local.Port())
		remote = netip.AddrPortFrom(randomAddr(rng, false), remote.Port())
	}
	f := &Flow{key: keyOf(local, remote), iss: rng.Uint32(), irs: rng.Uint32(), wl1: rng.Uint32(), sndScale: int8(rng.IntN(16) - 1), rcvScale: int8(rng.IntN(16) - 1)}
	f.flags = flags(rng.Uint32()) & (timestamps | sackOK)
	return f
}

func randomAddr(rng *rand.Rand, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
	}
	a := [16]byte{0: 0xfd}
	binary.BigEndian.PutUint64(a[8:], rng.Uint64())
	return netip.AddrFrom16(a)
}

func randomParts(rng *rand.Rand, f *Flow) parts {
	p := parts{
		src: f.key.remoteAddr(), dst: f.key.localAddr(), seq: rng.Uint32(), ack: rng.Uint32(), flags: byte(rng.Uint32()),
		window: uint16(rng.Uint32()), urgent: uint16(rng.Uint32()), data: make([]byte, rng.IntN(3000)),
	}
	p.flags &^= rst
	for i := range p.data {
		p.data[i] = byte(rng.Uint32())
	}
	room := 40
	for room > 0 && rng.IntN(6) > 0 {
		o := opt{kind: []byte{1, 2, 3, 4, 5, 8, 30, 34}[rng.IntN(8)]}
		size := map[byte]int{2: 2, 3: 1, 4: 0, 5: 8 * (1 + rng.IntN(3)), 8: 8, 30: rng.IntN(12), 34: rng.IntN(9)}[o.kind]
		for range size {
			o.body = append(o.body, byte(rng.Uint32()))
		}
		if o.kind == 1 {
			room--
		} else {
			room -= 2 + size
		}
		if room >= 0 && !(o.kind == 8 && hasKind(p.options, 8)) { // which of two timestamps counts nobody says
			p.options = append(p.options, o)
		}
	}
	return p
}

func hasKind(all []opt, kind byte) bool {
	for _, o := range all {
		if o.kind == kind {
			return true
		}
	}
	return false
}

// translated tells how the translation differs from the model, or "".
func translated(rng *rand.Rand, p *parts, f, m *Flow) string {
	packet := p.pack()
	fr := &frame.Frame{Net: packet, Room: make([]byte, frame.RoomSize)}
	l, ok := frame.Parse(packet)
	var s segment
	if !ok || !s.readInbound(packet, l) {
		return "it can't be read"
	}
	if s.key != f.key {
		return "it is not of its leg"
	}
	if rng.IntN(2) == 0 { // as it comes from a card that leaves the sum to us
		fr.Meta = frame.Header{Flags: frame.NeedsCsum, CsumStart: uint16(frame.EthernetSize + l.Transport), CsumOffset: 16}
		binary.BigEndian.PutUint16(packet[l.Transport+16:], f.key.pseudo(l.End-l.Transport))
	}
	tr := between(f, m)
	tr.mss, tr.shut = 1200, rng.IntN(4) == 0
	e := &envelope{mark: mark{ttl: 64}, mss: 1400}
	said := tr.segment(&s)
	if !tr.pass(fr, l, &s, &said, &f.key, &m.key, e) {
		return "it is not passed on"
	}
	got := append(append([]byte(nil), fr.Head[frame.EthernetSize:]...), fr.Body...)
	if fr.Meta.GSOType != frame.GSONone && int(fr.Meta.GSOSize) > 1400-int(s.headerOptions(packet, l)) {
		return "its pieces are too large"
	}
	if fr.Meta.GSOType == frame.GSONone && len(fr.Body) > 1400 {
		return "it is not cut"
	}
	if fr.Meta.Flags&frame.NeedsCsum != 0 {
		if !frame.Complete(&fr.Meta, got) {
			return "its checksum can't be made"
		}
		// UDP's way to write zero, which is the same number (RFC 768).
		if sum := got[len(fr.Head)-frame.EthernetSize-tcpSize(fr.Head)+16:]; sum[0] == 0xff && sum[1] == 0xff {
			sum[0], sum[1] = 0, 0
		}
	}
	out := model(*p, f, m, tr.mss, tr.shut)
	want := out.pack()
	if !bytes.Equal(got, want) {
		return "it became\n" + hex(got) + "\nand should be\n" + hex(want)
	}
	return ""
}

func (s *segment) headerOptions(packet []byte, l frame.Layout) int {
	return int(packet[l.Transport+12]>>4)*4 - tcpHeader
}

// tcpSize is that of the TCP header at the end of the headers of an untagged frame.
func tcpSize(head []byte) int {
	if head[frame.EthernetSize]>>4 == 4 {
		return len(head) - frame.EthernetSize - 20
	}
	return len(head) - frame.EthernetSize - 40
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 3*len(b))
	for _, x := range b[:min(len(b), 130)] {
		out = append(out, digits[x>>4], digits[x&15], ' ')
	}
	return string(out)
}
