package lab_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// BenchmarkImpairedLink moves bytes over a link with a little delay.
func BenchmarkImpairedLink(b *testing.B) {
	for _, c := range []struct {
		name string
		im   lab.Impairment
	}{
		{"perfect", lab.Impairment{}},
		{"delay 1 ms", lab.Impairment{Delay: time.Millisecond}},
		{"500 Mbit/s", lab.Impairment{Rate: 500e6}},
	} {
		b.Run(c.name, func(b *testing.B) { benchLink(b, c.im) })
	}
}

func benchLink(b *testing.B, im lab.Impairment) {
	x, y := labtest.Host(b, "x"), labtest.Host(b, "y")
	link := labtest.WireImpaired(b, x, "eth0", y, "eth0", im)
	labtest.Addr(b, x, "eth0", "10.9.0.1/24")
	labtest.Addr(b, y, "eth0", "10.9.0.2/24")
	blob := lab.Blob{Size: 64 << 20}
	s := labtest.BulkServer(b, y, "10.9.0.2:0", lab.Blob{}, blob)
	b.SetBytes(blob.Size)
	for b.Loop() {
		if _, err := lab.Bulk(b.Context(), x, s.Addr(), blob, lab.Blob{}); err != nil {
			b.Fatal(err)
		}
	}
	st := link.Stats().AToB
	b.ReportMetric(float64(st.Frames)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(st.RingDrops), "ringdrops")
}

// BenchmarkWireImpaired makes and removes a link.
func BenchmarkWireImpaired(b *testing.B) {
	for b.Loop() {
		x, err := lab.NewHost("x")
		if err != nil {
			b.Fatal(err)
		}
		l, err := lab.WireImpaired(x, "eth0", x, "eth1", lab.Impairment{})
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
		x.Close()
	}
}
