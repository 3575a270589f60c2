package main

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// rough is the wire of a bad day: 2 % of the frames lost each way, 20 ms there
// and back, and some overtaking others.
var rough = lab.Impairment{Loss: 0.02, Delay: 10 * time.Millisecond, Reorder: 0.01, Seed: 1}

// 64 MB each way at once on one connection over the rough wire, byte by byte
// the same; each side's FIN ends its direction while the other goes on.
func TestTransfersSurviveLossDelayAndReordering(t *testing.T) {
	t.Parallel() // it mostly waits
	size := int64(64 << 20)
	if testing.Short() {
		size = 2 << 20
	}
	for _, family := range []struct{ name, listen, backend string }{
		{"IPv4", "192.0.2.10:5000", "10.0.0.21:5000"},
		{"IPv6", "[2001:db8::10]:5000", "[fd00:10::21]:5000"},
	} {
		t.Run(family.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, &rough)
			up, down := lab.Blob{Seed: 1, Size: size}, lab.Blob{Seed: 2, Size: size}
			labtest.BulkServer(t, r.backend, family.backend, down, up)
			r.configure(`services: {bulk: {type: proxy, listen: "` + family.listen + `", backends: ["` + family.backend + `"]}}
`)
			p := r.start()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			took, err := lab.Bulk(ctx, r.client, family.listen, up, down)
			if err != nil {
				t.Fatal(err)
			}
			stats := r.wan.Stats()
			t.Logf("%d bytes each way in %v, %.1f Mbit/s; the wire: %+v", size, took.Round(time.Millisecond),
				float64(size)*16/took.Seconds()/1e6, stats)
			p.stop()
		})
	}
}

// One direction ends with EOF while the other goes on, either way round.
func TestHalfCloseLeavesTheOtherDirectionOpen(t *testing.T) {
	r := newRig(t, nil)
	accepted := make(chan *net.TCPConn, 1)
	server, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:80", func(c net.Conn) error {
		done := make(chan struct{})
		accepted <- c.(*net.TCPConn)
		t.Cleanup(func() { close(done) })
		<-done
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configure(`services: {web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"]}}
`)
	p := r.start()
	for _, who := range []string{"client", "backend"} {
		c := r.dial("192.0.2.10:80")
		b := <-accepted
		first, second := c, b
		if who == "backend" {
			first, second = b, c
		}
		if _, err := first.Write([]byte("the last\n")); err != nil {
			t.Fatal(err)
		}
		if err := first.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(deadline(t, second))
		if err != nil || string(got) != "the last\n" {
			t.Errorf("after the %s's FIN the other side got %q and %v, want the bytes and EOF", who, got, err)
		}
		// More than any buffer holds goes the other way, and ends there too.
		answer := lab.Blob{Seed: 3, Size: 16 << 20}
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(second, answer.Reader())
			if err == nil {
				err = second.CloseWrite()
			}
			sent <- err
		}()
		n, err := io.Copy(io.Discard, deadline(t, first))
		if err != nil || n != answer.Size {
			t.Errorf("the %s got %d bytes and %v after its own FIN, want %d", who, n, err, answer.Size)
		}
		if err := <-sent; err != nil {
			t.Errorf("sending to the %s: %v", who, err)
		}
	}
	p.stop()
}

func deadline(t testing.TB, c *net.TCPConn) *net.TCPConn {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}
