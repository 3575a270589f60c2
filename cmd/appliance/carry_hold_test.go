package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
)

// What a client sends is held back until its backend is connected. If that takes so
// long that the client repeats its first segment, the others, which are older than
// that, arrive nevertheless, and the client need not repeat them all.
func TestWhatWasHeldBackArrivesThoughTheClientHasRepeated(t *testing.T) {
	for timestamps, want := range map[string]string{"1": "splice", "0": "relay"} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			lateBackend(t, timestamps, want)
		})
	}
}

// lateBackend has a backend that does not get our first SYN; whether it has timestamps
// decides if the connection can be spliced.
func lateBackend(t *testing.T, timestamps, carrier string) {
	r := newRig(t, nil)
	late := labtest.Host(t, "late backend")
	lan := labtest.WireImpaired(t, late, "b0", r.box, "lan1", lab.Impairment{})
	labtest.Addr(t, late, "b0", "10.0.1.21/24")
	labtest.Sysctl(t, late, "net.ipv4.tcp_timestamps", timestamps)
	got := make(chan int64, 1)
	server, err := lab.Serve(t.Context(), late, "10.0.1.21:80", func(c net.Conn) error {
		n, err := io.Copy(io.Discard, c)
		got <- n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configureWith("  lan1: {addresses: [10.0.1.1/24]}\n", `services: {web: {type: proxy, listen: "wan0:80", backends: ["10.0.1.21:80"], forwarding: splice}}
`)
	p := r.start()
	// The first connection finds the backend's MAC out.
	if err := r.dial("192.0.2.10:80").Close(); err != nil {
		t.Fatal(err)
	}
	<-got
	lan.Cut()
	c := r.dial("192.0.2.10:80")
	const size = 12_000 // less than an initial window: all is sent at once
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // it repeats after 200 ms; our SYN comes again after a second
	lan.Mend()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != size {
		t.Errorf("the backend has read %d bytes of %d", n, size)
	}
	var last services.Ended
	eventually(t, 10*time.Second, "the appliance has told of the end", func() bool {
		rows, err := r.admin.Ended(t.Context())
		if err != nil || len(rows) < 2 {
			return false
		}
		last = rows[0]
		return true
	})
	if string(last.Carrier) != carrier || last.Backend.Life.SynRetrans == 0 {
		t.Fatalf("this is not what was to be tested: %+v", last)
	}
	if n := last.Client.Life.Guarded; n != 0 {
		t.Errorf("the guard has refused %d segments of the client's: %+v", n, last)
	}
	p.stop()
}
