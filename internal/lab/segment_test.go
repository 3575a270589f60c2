package lab_test

import (
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

func TestSegmentBehindExtensionHeadersIsRead(t *testing.T) {
	_, v4 := superFrame(10, 1460)
	tcp := v4[34:]
	options := []byte{6, 0, 1, 4, 0, 0, 0, 0} // a hop-by-hop header of padding
	ip := make([]byte, 40)
	ip[0], ip[5], ip[7] = 0x60, byte(len(options)+len(tcp)), 64
	ip[23], ip[39] = 1, 2
	frame := append(append([]byte{}, v4[:12]...), 0x86, 0xdd)
	frame = append(append(append(frame, ip...), options...), tcp...)
	s, ok := lab.ParseSegment(frame)
	if want := "[::1]:1000 > [::2]:2000 [.] seq 5000 ack 0 win 0 len 10"; !ok || s.String() != want {
		t.Errorf("got %q, %v, want %q", s, ok, want)
	}
	for n := range frame {
		lab.ParseSegment(frame[:n]) // must not panic
	}
	if s.Complete {
		t.Error("got a right checksum, but the addresses are others")
	}
}
