package netif

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/netif/frame"
)

// pieces puts TCP segments together again that came in IP fragments, before the
// filter sees them: a segment in pieces would pass a guard that looks at whole
// ones, and a FIN in one would be known to the stack and to nobody else. What is
// not TCP stays in pieces: the stack puts it together.
//
// Everything is bounded, and the oldest goes first. A packet with pieces that
// overlap is given up (RFC 8200, 4.5; the same in IPv4, as RFC 5722 advises).
type pieces struct {
	mu    sync.Mutex // guards the rest
	piles []*pile    // the oldest first
	bytes int
	lost  int // pieces of packets that were given up, since take told
	now   func() time.Time
}

const (
	pilesMost  = 64               // packets at once
	piecesMost = 128              // of one packet
	pieceBytes = 1 << 20          // of all packets
	pieceTime  = 30 * time.Second // RFC 791, 3.2 says 15 s at least, RFC 8200, 4.5 60 s at most
)

// pile is one packet in the making.
type pile struct {
	key    pileKey
	since  time.Time
	header []byte // of the first piece: all before the fragmented part, as in a whole packet
	total  int    // bytes of the fragmented part; 0: the last piece is not here
	have   int
	parts  []part // in order
}

type pileKey struct {
	version  uint8
	vlan     uint16
	tagged   bool
	id       uint32
	src, dst [16]byte
}

type part struct {
	at   int
	data []byte
}

// fate is what became of a piece.
type fate uint8

const (
	pieceNone fate = iota // it is none of a TCP segment
	pieceKept
	pieceBad
	pieceWhole // the frame has the whole packet now
)

// take takes a frame with a piece. If it was the last that was missing, the
// frame has the whole packet afterwards. lost counts pieces that were kept and
// are given up now.
func (ps *pieces) take(f *frame.Frame) (what fate, lost int) {
	l, ok := frame.Parse(f.Net)
	if !ok || !l.Fragment || l.Protocol != frame.ProtoTCP {
		return pieceNone, 0
	}
	key, header, at, last, ok := readPiece(f, l)
	if !ok {
		return pieceNone, 0
	}
	const largest = 1<<16 - 1 - 60 // with the longest header that the first piece may have
	data := f.Net[l.Transport:l.End]
	if len(data) == 0 || !last && len(data)%8 != 0 || at+len(data) > largest {
		return pieceBad, 0
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	what = ps.put(f, key, header, part{at, data}, last)
	lost, ps.lost = ps.lost, 0
	return what, lost
}

// put is take with the lock held, for a piece that may be right.
func (ps *pieces) put(f *frame.Frame, key pileKey, header []byte, x part, last bool) fate {
	now := time.Now()
	if ps.now != nil {
		now = ps.now()
	}
	ps.expire(now)
	p := ps.pile(key, now)
	switch known, clear := p.fits(x, last); {
	case known:
		return pieceKept // it came twice
	case !clear || len(p.parts) == piecesMost:
		ps.giveUp(p)
		return pieceBad
	}
	ps.add(p, part{x.at, bytes.Clone(x.data)}, last)
	if x.at == 0 {
		p.header = bytes.Clone(header)
	}
	if p.total == 0 || p.have < p.total {
		return pieceKept
	}
	f.Net, f.Meta = p.whole(), frame.Header{} // no card has verified it
	ps.remove(p)
	return pieceWhole
}

// readPiece takes a piece apart. An IPv6 packet with other headers before the
// one for fragments is left to the stack.
func readPiece(f *frame.Frame, l frame.Layout) (key pileKey, header []byte, at int, last, ok bool) {
	p := f.Net
	key = pileKey{version: l.Version, vlan: f.VLAN, tagged: f.Tagged}
	if l.Version == 4 {
		copy(key.src[:], p[12:16])
		copy(key.dst[:], p[16:20])
		key.id = uint32(binary.BigEndian.Uint16(p[4:]))
		word := binary.BigEndian.Uint16(p[6:])
		return key, p[:l.Transport], int(word&0x1fff) * 8, word&0x2000 == 0, true
	}
	const fixed, size = 40, 8
	if l.Transport != fixed+size {
		return key, nil, 0, false, false
	}
	copy(key.src[:], p[8:24])
	copy(key.dst[:], p[24:40])
	key.id = binary.BigEndian.Uint32(p[fixed+4:])
	word := binary.BigEndian.Uint16(p[fixed+2:])
	return key, p[:fixed], int(word &^ 7), word&1 == 0, true
}

// pile is the one that a piece belongs to.
func (ps *pieces) pile(key pileKey, now time.Time) *pile {
	for _, p := range ps.piles {
		if p.key == key {
			return p
		}
	}
	if len(ps.piles) == pilesMost {
		ps.giveUp(ps.piles[0])
	}
	p := &pile{key: key, since: now}
	ps.piles = append(ps.piles, p)
	return p
}

// fits reports whether a piece is there already, and else whether it overlaps
// none and lies within the packet.
func (p *pile) fits(x part, last bool) (known, clear bool) {
	end := x.at + len(x.data)
	if p.total > 0 && (end > p.total || last && end != p.total) {
		return false, false
	}
	for _, o := range p.parts {
		if o.at == x.at && bytes.Equal(o.data, x.data) {
			return true, true
		}
		if x.at < o.at+len(o.data) && o.at < end || last && o.at+len(o.data) > end {
			return false, false
		}
	}
	return false, true
}

// add puts a piece on its pile, and makes room for it.
func (ps *pieces) add(p *pile, x part, last bool) {
	i, _ := slices.BinarySearchFunc(p.parts, x.at, func(o part, at int) int { return o.at - at })
	p.parts = slices.Insert(p.parts, i, x)
	p.have += len(x.data)
	ps.bytes += len(x.data)
	if last {
		p.total = x.at + len(x.data)
	}
	for ps.bytes > pieceBytes && ps.piles[0] != p {
		ps.giveUp(ps.piles[0])
	}
}

// whole is the packet, with the lengths and the checksum of one that was never
// cut. Pieces that neither overlap nor leave room are in order.
func (p *pile) whole() []byte {
	b := append(make([]byte, 0, len(p.header)+p.total), p.header...)
	for _, x := range p.parts {
		b = append(b, x.data...)
	}
	if p.key.version == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(p.total))
		b[6] = frame.ProtoTCP
		return b
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6], b[7], b[10], b[11] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], ^frame.Sum(b[:len(p.header)], 0))
	return b
}

func (ps *pieces) expire(now time.Time) {
	for len(ps.piles) > 0 && now.Sub(ps.piles[0].since) > pieceTime {
		ps.giveUp(ps.piles[0])
	}
}

// giveUp forgets a packet that is not whole.
func (ps *pieces) giveUp(p *pile) {
	ps.lost += len(p.parts)
	ps.remove(p)
}

func (ps *pieces) remove(p *pile) {
	ps.bytes -= p.have
	ps.piles = slices.DeleteFunc(ps.piles, func(o *pile) bool { return o == p })
}
