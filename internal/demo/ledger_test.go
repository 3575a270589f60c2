package demo

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

var (
	service = netip.MustParseAddrPort("192.0.2.10:80")
	one     = netip.MustParseAddrPort("192.0.2.2:40001")
	two     = netip.MustParseAddrPort("192.0.2.2:40002")
)

func to(c netip.AddrPort, f lab.Flags, seq, ack uint32, n int) lab.Segment {
	return lab.Segment{Src: service, Dst: c, Flags: f, Seq: seq, Ack: ack, Len: n}
}

func from(c netip.AddrPort, f lab.Flags, seq, ack uint32, n int) lab.Segment {
	return lab.Segment{Src: c, Dst: service, Flags: f, Seq: seq, Ack: ack, Len: n}
}

func TestTheLedgerCountsLastSegments(t *testing.T) {
	const fin = lab.FIN | lab.ACK
	proper := func(c netip.AddrPort) []lab.Segment {
		return []lab.Segment{to(c, fin, 100, 50, 7), from(c, lab.ACK, 50, 108, 0), from(c, fin, 50, 108, 0), to(c, lab.ACK, 108, 51, 0)}
	}
	for _, c := range []struct {
		name     string
		segments []lab.Segment
		want     ledger
	}{
		{"nothing", nil, ledger{}},
		{"both ends", append(proper(one), proper(two)...), ledger{finAcked: 2, lastACK: 2}},
		{"the last ACK is missing", append(proper(one), proper(two)[:3]...), ledger{finAcked: 2, lastACK: 1}},
		{"data acknowledged, FIN not", []lab.Segment{to(one, fin, 100, 50, 7), from(one, lab.ACK, 50, 107, 0)}, ledger{}},
		{"an acknowledgement before the FIN", []lab.Segment{from(one, lab.ACK, 50, 108, 0), to(one, fin, 100, 50, 7)}, ledger{}},
		{"around 2^32", []lab.Segment{to(one, fin, 1<<32-4, 50, 7), from(one, lab.ACK, 50, 4, 0)}, ledger{finAcked: 1}},
		{"FIN and its acknowledgement in one", []lab.Segment{to(one, fin, 100, 50, 0), from(one, fin, 50, 101, 0), to(one, lab.ACK, 101, 51, 0)}, ledger{finAcked: 1, lastACK: 1}},
		{"reset after a proper end", append(proper(one), to(one, lab.RST, 108, 0, 0)), ledger{finAcked: 1, lastACK: 1, resets: 1}},
		{"the client's RST is not ours", append(proper(one), from(one, lab.RST, 51, 0, 0)), ledger{finAcked: 1, lastACK: 1}},
		{"strangers", proper(netip.MustParseAddrPort("192.0.2.2:50000")), ledger{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := keep(c.segments, service, []netip.AddrPort{one, two}); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestAClientTellsFINFromRST(t *testing.T) {
	for _, c := range []struct {
		err   error
		whole bool
		want  ending
	}{
		{io.EOF, true, complete},
		{io.ErrUnexpectedEOF, false, cut},
		{fmt.Errorf("read: %w", syscall.ECONNRESET), true, reset},
		{fmt.Errorf("read: %w", syscall.ECONNRESET), false, reset},
		{os.ErrDeadlineExceeded, true, lost},
		{nil, true, lost}, // a byte behind the answer
		{errors.New("malformed chunked encoding"), false, lost},
	} {
		if got := saw(c.err, c.whole); got != c.want {
			t.Errorf("%v, whole %v: got %v, want %v", c.err, c.whole, got, c.want)
		}
	}
}
