package frame_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/lastack/lastack/netif/frame"
)

// sumByTheBook is RFC 1071, section 4.1, word by word.
func sumByTheBook(b []byte, initial uint16) uint16 {
	sum := uint32(initial)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSumOfEveryLengthIsTheBooks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		initial := uint16(rng.Uint32())
		// 0 and 0xffff are the same number in ones' complement.
		got, want := frame.Sum(b, initial)%0xffff, sumByTheBook(b, initial)%0xffff
		if got != want {
			t.Errorf("Sum of %d bytes from %#x = %#x, want %#x", n, initial, got, want)
		}
	}
}

func TestSumCarriesOutOfAllOnes(t *testing.T) {
	b := make([]byte, 72)
	for i := range b {
		b[i] = 0xff
	}
	if got, want := frame.Sum(b, 0xffff), uint16(0xffff); got != want {
		t.Errorf("Sum of ones = %#x, want %#x", got, want)
	}
}

// segment4 is a TCP segment in IPv4 with both checksums right.
func segment4(payload string) []byte {
	p := make([]byte, 40, 40+len(payload))
	p = append(p, payload...)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, frame.ProtoTCP
	copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	p[32] = 5 << 4
	return withTransportSum(p)
}

// segment6 is a TCP segment in IPv6 behind a destination options header.
func segment6(payload string) []byte {
	p := make([]byte, 40+8+20, 68+len(payload))
	p = append(p, payload...)
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	p[6], p[7] = 60, 64
	p[8], p[24], p[39] = 0xfd, 0xfd, 1
	p[40] = frame.ProtoTCP
	p[60] = 5 << 4
	return withTransportSum(p)
}

func withTransportSum(p []byte) []byte {
	l, ok := frame.Parse(p)
	if !ok {
		panic("test segment does not parse")
	}
	binary.BigEndian.PutUint16(p[l.Transport+16:], l.TransportSum(p))
	return p
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	for name, p := range map[string][]byte{"IPv4": segment4("every bit counts"), "IPv6": segment6("every bit counts")} {
		l, ok := frame.Parse(p)
		if !ok || !l.TransportValid(p) {
			t.Fatalf("%s: an intact segment is refused", name)
		}
		for bit := range len(p) * 8 {
			if name == "IPv6" && (bit < 32 || bit >= 7*8 && bit < 8*8 || bit >= 41*8 && bit < 48*8) {
				continue // traffic class, flow label, hop limit and options: no checksum covers them
			}
			q := append([]byte(nil), p...)
			q[bit/8] ^= 0x80 >> (bit % 8)
			if l, ok := frame.Parse(q); ok && l.Protocol == frame.ProtoTCP && !l.Fragment && l.TransportValid(q) {
				t.Errorf("%s: flipped bit %d of byte %d passes", name, bit%8, bit/8)
			}
		}
	}
}

func TestCompleteFinishesAPartialChecksum(t *testing.T) {
	p := segment4("partial")
	whole := binary.BigEndian.Uint16(p[36:])
	// What the kernel leaves there: the pseudo-header's sum.
	size := len(p) - 20
	pseudo := frame.Sum([]byte{0, frame.ProtoTCP, byte(size >> 8), byte(size)}, frame.Sum(p[12:20], 0))
	binary.BigEndian.PutUint16(p[36:], pseudo)
	m := frame.Header{Flags: frame.NeedsCsum, CsumStart: 34, CsumOffset: 16}
	if !frame.Complete(&m, p) {
		t.Fatal("Complete refused good metadata")
	}
	if got := binary.BigEndian.Uint16(p[36:]); got != whole {
		t.Errorf("checksum = %#x, want %#x", got, whole)
	}
	if m.Flags&frame.NeedsCsum != 0 {
		t.Error("NeedsCsum is still set")
	}
}

func TestCompleteRefusesMetadataOutsideThePacket(t *testing.T) {
	p := segment4("")
	for _, m := range []frame.Header{{CsumStart: 3}, {CsumStart: 60}, {CsumStart: 34, CsumOffset: 30}, {CsumStart: 34, CsumOffset: 15}, {CsumStart: 65535, CsumOffset: 65534}} {
		if frame.Complete(&m, p) {
			t.Errorf("Complete took csum_start %d, csum_offset %d", m.CsumStart, m.CsumOffset)
		}
	}
}

func TestParseRefusesWhatIsNoWholePacket(t *testing.T) {
	good := segment4("x")
	short := append([]byte(nil), good...)
	short[3]++ // longer than the frame
	for name, p := range map[string][]byte{
		"empty": nil, "version 5": append([]byte{0x55}, good[1:]...), "cut": good[:30],
		"header cut": good[:19], "longer than the frame": short, "IPv6 cut": segment6("")[:50],
	} {
		if l, ok := frame.Parse(p); ok {
			t.Errorf("%s: Parse took it as %+v", name, l)
		}
	}
}

func TestParseSeesFragmentsAndPadding(t *testing.T) {
	p := segment4("x")
	padded := append(append([]byte(nil), p...), 0, 0, 0)
	if l, ok := frame.Parse(padded); !ok || l.End != len(p) || !l.TransportValid(padded) {
		t.Errorf("padded packet: Parse = %+v, %v, want End %d", l, ok, len(p))
	}
	p[6] = 0x20 // more fragments
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	if l, ok := frame.Parse(p); !ok || !l.Fragment {
		t.Errorf("fragment: Parse = %+v, %v", l, ok)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(segment4("seed"))
	f.Add(segment6("seed"))
	f.Fuzz(func(t *testing.T, p []byte) {
		l, ok := frame.Parse(p)
		if !ok {
			return
		}
		if l.Transport > l.End || l.End > len(p) {
			t.Fatalf("layout %+v leaves a packet of %d bytes", l, len(p))
		}
		if !l.Fragment {
			l.TransportValid(p)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{60, 1460, 65000} {
		p := make([]byte, n)
		b.Run("", func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				frame.Sum(p, 0)
			}
		})
	}
}
