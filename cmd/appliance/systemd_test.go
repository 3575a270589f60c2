package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The service manager is told when the appliance is ready, that it lives, and
// that it stops and how long that may take.
func TestTheServiceManagerIsTold(t *testing.T) {
	r := newRig(t, nil)
	r.configure(`services: {echo: {type: echo, listen: "wan0:7"}}
drain: {deadline: 3s, fin_grace: 1s}
`)
	socket := filepath.Join(r.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "400000")
	next := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for end := time.Now().Add(10 * time.Second); ; {
			if err := l.SetReadDeadline(end); err != nil {
				t.Fatal(err)
			}
			n, err := l.Read(buf)
			if err != nil {
				t.Fatalf("nothing with %q: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	p := r.start()
	next("READY=1\nSTATUS=serving 1 services")
	begin := time.Now()
	for range 4 {
		next("WATCHDOG=1")
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("four signs of life took %v, want one every 200 ms", took)
	}
	p.stop()
	next("STOPPING=1")
	next("EXTEND_TIMEOUT_USEC=10000000") // 4 s to drain, 1 s to settle, 5 s for the rest
}
