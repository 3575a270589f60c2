package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// A client that missed our RST is told again by whatever it sends next: bytes, or
// the FIN that it repeats.
func TestAClientThatMissedAResetIsToldAgain(t *testing.T) {
	for _, f := range forwardings(t) {
		for _, what := range []string{"bytes", "FIN"} {
			t.Run(f+" "+what, func(t *testing.T) {
				t.Parallel()
				missedReset(t, f, what)
			})
		}
	}
}

func missedReset(t *testing.T, forwarding, what string) {
	r := newRig(t, &lab.Impairment{})
	accepted := make(chan *net.TCPConn, 1)
	server, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:80", func(c net.Conn) error {
		accepted <- c.(*net.TCPConn)
		<-t.Context().Done() // before the server is closed
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configure(fmt.Sprintf("services: {web: {type: proxy, listen: \"wan0:80\", backends: [\"10.0.0.21:80\"], forwarding: %s}}\n", forwarding))
	p := r.start()
	c := r.dial("192.0.2.10:80")
	b := <-accepted
	if _, err := c.Write([]byte("before\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(deadline(t, b), make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	r.wan.Cut()
	if what == "FIN" {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.SetLinger(0), b.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the appliance has ended the connection", func() bool {
		rows, err := r.admin.Conns(t.Context())
		return err == nil && len(rows) == 0
	})
	r.wan.Mend()
	if what == "bytes" {
		if _, err := c.Write([]byte("after\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadAll(deadline(t, c)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
	p.stop()
}
