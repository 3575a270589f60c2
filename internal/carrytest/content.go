package carrytest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// stream is an endless content, of which each eight bytes are another number
// made of key and place.
type stream uint64

// fill writes what is in the stream from offset at on.
func (s stream) fill(b []byte, at int64) {
	var word [8]byte
	for len(b) > 0 {
		binary.LittleEndian.PutUint64(word[:], mix(uint64(s)+uint64(at/8)))
		n := copy(b, word[at%8:])
		b, at = b[n:], at+int64(n)
	}
}

// check compares what was read at an offset; spare is as large as b.
func (s stream) check(b []byte, at int64, spare []byte) error {
	want := spare[:len(b)]
	s.fill(want, at)
	if bytes.Equal(b, want) {
		return nil
	}
	i := 0
	for b[i] == want[i] {
		i++
	}
	return fmt.Errorf("wrong bytes from offset %d on: % x, want % x%s", at+int64(i), head(b[i:]), head(want[i:]), s.whence(b[i:], at+int64(i)))
}

// whence tells where in the stream some bytes come from, if from near by.
func (s stream) whence(b []byte, at int64) string {
	const near, least = 4 << 20, 12
	if len(b) < least {
		return ""
	}
	from := max(0, at-near)
	around := make([]byte, 2*near)
	s.fill(around, from)
	i := bytes.Index(around, b[:least])
	if i < 0 {
		return " (they are not of this stream)"
	}
	return fmt.Sprintf(" (they belong to offset %d, %+d)", from+int64(i), from+int64(i)-at)
}

func head(b []byte) []byte { return b[:min(len(b), 12)] }

// mix is the finalizer of splitmix64: neighbours have nothing in common.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
