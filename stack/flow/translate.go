package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

// translation is how a segment of one leg of a carried connection becomes one of
// the other: what is added to its numbers, modulo 2^32, and what the other peer
// has agreed to. It does not change as long as the connection lives, but for
// shut.
type translation struct {
	seq, ack     uint32
	tsVal, tsEcr uint32
	shift        int8 // of the window: to the left, or to the right if negative
	ts, sack     bool // the other leg has timestamps, and selective acknowledgements
	shut         bool // tell the other peer that the window is closed
	mss          uint16
}

// The TCP options that are passed on (RFC 9293, 3.1; RFC 7323; RFC 2018). All
// others mean something between two hosts that do not know of us: Fast Open,
// multipath and signatures would not hold on the other leg.
const (
	optEnd, optNOP, optMSS, optScale, optSACKOK, optSACK, optTimestamps = 0, 1, 2, 3, 4, 5, 8
)

// between is the translation from segments of f to those of its mate m.
//
// Byte n of the stream has number irs+1+n on the leg it comes from, and iss+1+n
// on the leg it goes to.
func between(f, m *Flow) translation {
	return translation{
		seq: m.iss - f.irs, ack: m.irs - f.iss,
		tsVal: f.tsDelta(), tsEcr: -m.tsDelta(),
		shift: max(f.sndScale, 0) - max(m.rcvScale, 0),
		ts:    m.has(timestamps), sack: m.has(sackOK),
	}
}

// window translates the window of a segment that is no SYN.
func (tr *translation) window(w uint16) uint16 {
	if tr.shut {
		return 0
	}
	wide := uint64(w)
	if tr.shift >= 0 {
		wide <<= uint(tr.shift)
	} else {
		wide >>= uint(-tr.shift)
		if wide == 0 && w > 0 {
			wide = 1 // closed is not the same as less than a unit
		}
	}
	return uint16(min(wide, 0xffff))
}

// segment translates what is known of a segment.
func (tr *translation) segment(s *segment) segment {
	out := *s
	out.seq += tr.seq
	if s.flags&ack != 0 {
		out.ack += tr.ack
	} else {
		out.ack = 0
	}
	if s.flags&syn == 0 {
		out.window = tr.window(s.window)
	}
	if out.ts = s.ts && tr.ts; out.ts {
		out.tsVal += tr.tsVal
		if s.flags&ack != 0 {
			out.tsEcr += tr.tsEcr
		}
	}
	return out
}

// header translates a TCP header with its options, for s which becomes out: from
// is all of it, to has room for as much. The ports are the caller's, and the
// checksum is left zero.
func (tr *translation) header(to, from []byte, s, out *segment) {
	copy(to, from)
	binary.BigEndian.PutUint32(to[4:], out.seq)
	binary.BigEndian.PutUint32(to[8:], out.ack)
	to[12] &= 0xf0 // what is reserved is none of ours
	// No ECN: nobody has agreed to it, since it is not passed on in a SYN.
	to[13] = s.flags & (fin | syn | rst | psh | ack | urg)
	binary.BigEndian.PutUint16(to[14:], out.window)
	to[16], to[17] = 0, 0
	if s.flags&urg == 0 {
		to[18], to[19] = 0, 0
	}
	tr.options(to[tcpHeader:len(from)], s, out)
}

const urg = 0x20

// options translates the options in place. What is not passed on becomes padding,
// so that the header keeps its size.
func (tr *translation) options(p []byte, s, out *segment) {
	for len(p) > 0 {
		kind := p[0]
		if kind == optNOP {
			p = p[1:]
			continue
		}
		if kind == optEnd || len(p) < 2 || p[1] < 2 || int(p[1]) > len(p) {
			clear(p) // the end, or what nobody can read
			return
		}
		one := p[:p[1]]
		body := one[2:]
		p = p[p[1]:]
		switch {
		case kind == optTimestamps && len(body) == 8 && out.ts:
			binary.BigEndian.PutUint32(body, out.tsVal)
			binary.BigEndian.PutUint32(body[4:], out.tsEcr)
			continue
		case kind == optSACK && len(body)%8 == 0 && tr.sack && s.flags&syn == 0:
			for ; len(body) > 0; body = body[4:] {
				binary.BigEndian.PutUint32(body, binary.BigEndian.Uint32(body)+tr.ack)
			}
			continue
		case s.flags&syn == 0:
		case kind == optMSS && len(body) == 2:
			if tr.mss != 0 && binary.BigEndian.Uint16(body) > tr.mss {
				binary.BigEndian.PutUint16(body, tr.mss)
			}
			continue
		case kind == optScale && len(body) == 1, kind == optSACKOK && len(body) == 0:
			continue
		}
		for i := range one {
			one[i] = optNOP
		}
	}
}

// envelope is what goes around a translated TCP header: the leg it leaves by.
type envelope struct {
	own, peer [6]byte
	tagged    bool
	vlan      uint16
	mark
	mss int // bytes of data that fit into one packet, options not counted
}

// mark is what a policy writes into IP headers.
type mark struct{ ttl, dscp uint8 }

func (t *Table) mark(policy uint16) mark {
	p := t.policy(policy)
	m := mark{64, uint8(max(p.DSCP, 0))}
	if p.TTL > 0 {
		m.ttl = uint8(p.TTL)
	}
	return m
}

// The sizes of headers at most: Ethernet's with a tag, and IP's.
const (
	ethernetMost = frame.EthernetSize + 4
	ipMost       = 40
)

// put writes Ethernet and IP headers for a segment of the leg's key, and returns
// where the TCP header begins. size is that of TCP header and data.
func (e *envelope) put(room []byte, k *key, size int) (transport int) {
	at := e.ethernet(room, k)
	return at + e.mark.put(room[at:], k, size)
}

// ethernet writes the Ethernet header, and returns its size.
func (e *envelope) ethernet(room []byte, k *key) (size int) {
	copy(room, e.peer[:])
	copy(room[6:], e.own[:])
	at := 12
	if e.tagged {
		binary.BigEndian.PutUint16(room[at:], frame.TypeVLAN)
		binary.BigEndian.PutUint16(room[at+2:], e.vlan)
		at += 4
	}
	kind := uint16(frame.TypeIPv6)
	if k.is4() {
		kind = frame.TypeIPv4
	}
	binary.BigEndian.PutUint16(room[at:], kind)
	return at + 2
}

// put writes the IP header of a segment from the local end of a key to the remote
// one, and returns its size.
func (m mark) put(p []byte, k *key, size int) int {
	if !k.is4() {
		clear(p[:8])
		p[0], p[1] = 0x60|m.dscp>>2, m.dscp<<6
		binary.BigEndian.PutUint16(p[4:], uint16(size))
		p[6], p[7] = frame.ProtoTCP, m.ttl
		copy(p[8:], k.local[:])
		copy(p[24:], k.remote[:])
		return 40
	}
	clear(p[:20])
	p[0], p[1] = 0x45, m.dscp<<2
	binary.BigEndian.PutUint16(p[2:], uint16(20+size))
	p[6] = 0x40 // may not be fragmented: no identification is needed (RFC 6864)
	p[8], p[9] = m.ttl, frame.ProtoTCP
	copy(p[12:], k.local[12:])
	copy(p[16:], k.remote[12:])
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	return 20
}

// is4 reports whether the addresses are IPv4's.
func (k *key) is4() bool {
	return binary.LittleEndian.Uint64(k.local[:]) == 0 && k.local[8] == 0 && k.local[9] == 0 && k.local[10] == 0xff && k.local[11] == 0xff
}

// pseudo is the sum of the pseudo-header for size bytes of TCP.
func (k *key) pseudo(size int) uint16 {
	tail := [8]byte{2: byte(size >> 8), 3: byte(size), 7: frame.ProtoTCP}
	if k.is4() {
		return frame.Sum(tail[:], frame.Sum(k.local[12:], frame.Sum(k.remote[12:], 0)))
	}
	return frame.Sum(tail[:], frame.Sum(k.local[:], frame.Sum(k.remote[:], 0)))
}

// pass writes the frame that a segment becomes on the other leg: the headers into
// its Room, the data stay where they are. out is what the caller has translated of
// it. It is false if that cannot be sent.
func (tr *translation) pass(fr *frame.Frame, l frame.Layout, s, out *segment, from, to *key, e *envelope) bool {
	in := fr.Net[l.Transport:l.End]
	header := int(in[12]>>4) * 4
	size := len(in)
	if size > 0xffff-20 && to.is4() || len(fr.Room) < frame.RoomSize {
		return false
	}
	at := e.put(fr.Room, to, size)
	tcp := fr.Room[at : at+header]
	tr.header(tcp, in[:header], s, out)
	binary.BigEndian.PutUint16(tcp, to.lport)
	binary.BigEndian.PutUint16(tcp[2:], to.rport)
	fr.Head, fr.Body = fr.Room[:at+header], in[header:]
	most := e.mss - (header - tcpHeader)
	if most <= 0 {
		return false
	}
	super := fr.Meta.GSOType != frame.GSONone
	if !super && fr.Meta.Flags&frame.NeedsCsum == 0 && len(fr.Body) <= most {
		fr.Meta = frame.Header{}
		binary.BigEndian.PutUint16(tcp[16:], resummed(in[:header], tcp, from.pseudo(size), to.pseudo(size)))
		return true
	}
	// The kernel or the card sums it up, and cuts it if need be.
	cut := most
	if super {
		cut = min(int(fr.Meta.GSOSize), most)
	}
	fr.Meta = frame.Header{Flags: frame.NeedsCsum, CsumStart: uint16(at), CsumOffset: 16}
	if len(fr.Body) > cut {
		fr.Meta.HdrLen, fr.Meta.GSOSize, fr.Meta.GSOType = uint16(at+header), uint16(cut), frame.GSOTCPv4
		if !to.is4() {
			fr.Meta.GSOType = frame.GSOTCPv6
		}
	}
	binary.BigEndian.PutUint16(tcp[16:], to.pseudo(size))
	return true
}

// resummed is the checksum of a segment whose header and pseudo-header were
// changed, from the one it had (RFC 1624): what its data add stays, so that what
// is damaged here or was damaged before is found out by the peer. to has zero
// for it.
func resummed(from, to []byte, pseudoFrom, pseudoTo uint16) uint16 {
	old := binary.BigEndian.Uint16(from[16:])
	// ~old = header without checksum + pseudo-header + data
	without := add(frame.Sum(from, pseudoFrom), ^old)
	data := add(^old, ^without)
	sum := add(data, frame.Sum(to, pseudoTo))
	if sum == 0 {
		sum = 0xffff // the same number; that of a segment, which has ports, is never written as 0
	}
	return ^sum
}

// add is the ones' complement sum.
func add(a, b uint16) uint16 {
	n := uint32(a) + uint32(b)
	return uint16(n + n>>16)
}
