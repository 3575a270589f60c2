package stack

import (
	"bytes"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// One group of connections, by gVisor's package: BenchmarkWriteConnections and
// BenchmarkReadConnections tell what each costs.
func group(b *testing.B) (*links, *root) {
	l, err := findLinks()
	if err != nil {
		b.Fatal(err)
	}
	r := &root{}
	for range groupSize / 2 {
		clock := NewClock(0)
		s := gstack.New(gstack.Options{
			Clock:              clock,
			NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol},
			TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
		})
		ends, err := converse(s)
		if err != nil {
			b.Fatal(err)
		}
		s.Pause()
		clock.stop()
		b.Cleanup(func() { clock.start(); s.Resume(); s.Destroy() })
		r.endpoints = append(r.endpoints, ends...)
	}
	return l, r
}

func BenchmarkWriteConnections(b *testing.B) {
	l, r := group(b)
	b.ReportAllocs()
	for b.Loop() {
		var image bytes.Buffer
		if err := l.write(&image, r); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/groupSize, "µs/conn")
}

func BenchmarkReadConnections(b *testing.B) {
	l, r := group(b)
	var image bytes.Buffer
	if err := l.write(&image, r); err != nil {
		b.Fatal(err)
	}
	whole := image.Bytes()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.readAll(bytes.NewReader(whole), groupSize); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/groupSize, "µs/conn")
	b.ReportMetric(float64(len(whole))/groupSize, "B/conn")
}
