package netif

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lastack/lastack/netif/frame"
)

// cut cuts a packet into pieces of size bytes, a multiple of eight.
func cut(p []byte, size int, id uint16) (pieces [][]byte) {
	header := 20
	if p[0]>>4 == 6 {
		header = 40
	}
	for at := 0; at < len(p)-header; at += size {
		data := p[header+at : min(header+at+size, len(p))]
		more := header+at+len(data) < len(p)
		piece := append([]byte(nil), p[:header]...)
		if header == 20 {
			word := uint16(at / 8)
			if more {
				word |= 0x2000
			}
			binary.BigEndian.PutUint16(piece[2:], uint16(20+len(data)))
			binary.BigEndian.PutUint16(piece[4:], id)
			binary.BigEndian.PutUint16(piece[6:], word)
			piece[10], piece[11] = 0, 0
			binary.BigEndian.PutUint16(piece[10:], ^frame.Sum(piece, 0))
		} else {
			word := uint16(at)
			if more {
				word |= 1
			}
			binary.BigEndian.PutUint16(piece[4:], uint16(8+len(data)))
			piece[6] = 44
			piece = append(piece, frame.ProtoTCP, 0, byte(word>>8), byte(word), 0, 0, byte(id>>8), byte(id))
		}
		pieces = append(pieces, append(piece, data...))
	}
	return pieces
}

func frameOf(p []byte) *frame.Frame {
	kind := uint16(frame.TypeIPv4)
	if p[0]>>4 == 6 {
		kind = frame.TypeIPv6
	}
	return &frame.Frame{Eth: ethernet(kind), Net: append([]byte(nil), p...)}
}

// segments of some length, in both versions of IP.
func someSegments(payload int) map[string][]byte {
	data := bytes.Repeat([]byte("0123456789abcde."), payload/16+1)[:payload]
	return map[string][]byte{"IPv4": tcp4(0x10, 7, data), "IPv6": tcp6(0x10, 7, data)}
}

func TestPiecesInAnyOrderMakeTheSegmentAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for name, whole := range someSegments(5000) {
		for round := range 50 {
			var ps pieces
			all := cut(whole, 8*(6+rng.IntN(150)), 9)
			all = append(all, all[rng.IntN(len(all))]) // one comes twice
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			var got []byte
			for _, p := range all {
				f := frameOf(p)
				switch what, lost := ps.take(f); {
				case what == pieceWhole:
					got = f.Net
				case what != pieceKept || lost > 0:
					t.Fatalf("%s, round %d: a piece gets %d, %d lost", name, round, what, lost)
				}
			}
			l, ok := frame.Parse(got)
			if !ok || l.Fragment || !l.TransportValid(got) || !bytes.Equal(got[l.Transport:l.End], whole[l.Transport:]) {
				t.Fatalf("%s, round %d: %d bytes, %+v, want the segment of %d", name, round, len(got), l, len(whole))
			}
			if len(ps.piles) > 1 || len(ps.piles) == 1 && len(ps.piles[0].parts) != 1 { // the one that came twice, too late
				t.Fatalf("%s, round %d: %d packets are left", name, round, len(ps.piles))
			}
		}
	}
}

func TestPiecesThatFitNoPacketAreGivenUp(t *testing.T) {
	for name, whole := range someSegments(400) {
		all := cut(whole, 200, 9)
		other := cut(append(append([]byte(nil), whole[:len(whole)-40]...), bytes.Repeat([]byte("X"), 40)...), 136, 9)
		for why, list := range map[string][][]byte{
			"overlap":            {all[0], other[1]},
			"behind the end":     {all[2], cut(someSegments(900)[name], 200, 9)[3]},
			"before another end": {all[1], cut(someSegments(40)[name], 24, 9)[2]},
		} {
			var ps pieces
			if what, _ := ps.take(frameOf(list[0])); what != pieceKept {
				t.Errorf("%s, %s: the first gets %d", name, why, what)
			}
			if what, lost := ps.take(frameOf(list[1])); what != pieceBad || lost != 1 || len(ps.piles) != 0 || ps.bytes != 0 {
				t.Errorf("%s, %s: it gets %d, %d lost, %d packets and %d bytes are kept", name, why, what, lost, len(ps.piles), ps.bytes)
			}
		}
		odd := append([]byte(nil), all[0][:len(all[0])-3]...)
		if whole[0]>>4 == 4 {
			binary.BigEndian.PutUint16(odd[2:], uint16(len(odd)))
			odd[10], odd[11] = 0, 0
			binary.BigEndian.PutUint16(odd[10:], ^frame.Sum(odd[:20], 0))
		} else {
			binary.BigEndian.PutUint16(odd[4:], uint16(len(odd)-40))
		}
		var ps pieces
		if what, _ := ps.take(frameOf(odd)); what != pieceBad {
			t.Errorf("%s: a piece in the middle of %d bytes gets %d", name, len(odd), what)
		}
	}
}

func TestPiecesAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	ps := pieces{now: func() time.Time { return now }}
	lost := 0
	first := func(id uint16, size int) {
		t.Helper()
		p := tcp4(0x10, 7, make([]byte, size))
		what, gone := ps.take(frameOf(cut(p, (size/8)*8, id)[0]))
		if what != pieceKept {
			t.Fatalf("a first piece gets %d", what)
		}
		lost += gone
	}
	for id := range uint16(100) {
		first(id, 100)
	}
	if len(ps.piles) != pilesMost || lost != 100-pilesMost {
		t.Errorf("%d packets wait and %d pieces are lost, want %d and %d", len(ps.piles), lost, pilesMost, 100-pilesMost)
	}
	for id := range uint16(40) {
		first(1000+id, 60_000)
		if ps.bytes > pieceBytes {
			t.Fatalf("%d bytes are kept", ps.bytes)
		}
	}
	now = now.Add(pieceTime + time.Second)
	first(5000, 100)
	if len(ps.piles) != 1 || ps.bytes != 96 {
		t.Errorf("after %v %d packets and %d bytes wait, want the last one's", pieceTime, len(ps.piles), ps.bytes)
	}
	if lost != 140 {
		t.Errorf("%d pieces are lost, want 140", lost)
	}
}

func FuzzPieces(f *testing.F) {
	for _, whole := range someSegments(400) {
		all := cut(whole, 200, 9)
		f.Add(all[0], all[1], all[2])
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var ps pieces
		for _, p := range [][]byte{a, b, c} {
			fr := &frame.Frame{Eth: ethernet(frame.TypeIPv4), Net: p}
			if what, _ := ps.take(fr); what == pieceWhole {
				if l, ok := frame.Parse(fr.Net); !ok || l.Fragment || l.End != len(fr.Net) {
					t.Fatalf("made %x", fr.Net)
				}
			}
		}
	})
}
