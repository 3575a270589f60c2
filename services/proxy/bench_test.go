package proxy_test

import (
	"net/netip"
	"testing"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

// benchPair is a client and a backend that a proxy has joined.
func benchPair(b *testing.B, size int) (client, backend *servicestest.Peer) {
	b.Helper()
	net := &servicestest.Net{Buffer: size}
	h, err := net.Host(back1)
	if err != nil {
		b.Fatal(err)
	}
	loops := services.NewLoops(services.LoopOptions{N: 1})
	p := proxy.New(config.Service{
		Name: "web", Type: "proxy", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}},
		Backends: []netip.AddrPort{back1}, IdleTimeout: config.Off,
	}, config.DefaultPolicy(), services.Env{Network: net, Loops: loops})
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.Close()
		loops.Close()
	})
	if client, err = net.Client(front); err != nil {
		b.Fatal(err)
	}
	if backend, err = h.Accept(); err != nil {
		b.Fatal(err)
	}
	return client, backend
}

// A request and its answer through a pair, with the wake-ups of both.
func BenchmarkPairPingPong(b *testing.B) {
	client, backend := benchPair(b, 64<<10)
	msg, buf := make([]byte, 100), make([]byte, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		must(b, client.Write, msg)
		must(b, backend.Read, buf)
		must(b, backend.Write, msg)
		must(b, client.Read, buf)
	}
}

// Bulk data through a pair, held up by the buffers.
func BenchmarkPairBulk(b *testing.B) {
	client, backend := benchPair(b, 1<<20)
	const piece = 64 << 10
	msg, buf := make([]byte, piece), make([]byte, 256<<10)
	b.SetBytes(piece)
	b.ReportAllocs()
	b.ResetTimer()
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < b.N && err == nil; i++ {
			_, err = client.Write(msg)
		}
		sent <- err
	}()
	for left := b.N * piece; left > 0; {
		n, err := backend.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
}

func must(b *testing.B, f func([]byte) (int, error), p []byte) {
	if _, err := f(p); err != nil {
		b.Fatal(err)
	}
}
