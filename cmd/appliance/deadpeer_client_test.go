package main

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

func TestAClientThatVanishesIsNoticedAndItsBackendTold(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	server := labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(quickPolicy + deadServices)
	r.start()
	exchange(t, r.dial("192.0.2.10:7"), "hello\n", "hello\n")
	row := r.row("web", "the connection lives", func(services.Row) bool { return true })
	r.wan.Cut()
	probed, err := r.admin.Probe(t.Context(), row.ID)
	if err != nil || probed.Client.Alive == tcpinfo.Answers || probed.Backend == nil || probed.Backend.Alive != tcpinfo.Answers {
		t.Errorf("the probe says %+v, %v; want the backend alive and the client not", probed, err)
	}
	e := r.ended("web", services.ClientKeepalive)
	if e.First.Who != "client" || !e.Backend.Reset {
		t.Errorf("ended %+v, want the client first and the backend reset", e)
	}
	eventually(t, soon, "the backend has no connection any more", func() bool { return server.Open() == 0 })
	r.wan.Mend()
	r.goesOn("192.0.2.10:9")
}

// The backend takes its client's FIN and never finishes: half_close ends it.
func TestAHalfCloseThatIsNeverAnsweredEndsWithItsReason(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	saw, over := make(chan error, 1), make(chan struct{})
	server, err := lab.Serve(t.Context(), r.backend, "10.0.0.21:7", func(c net.Conn) error {
		if _, err := io.Copy(io.Discard, c); err != nil { // to the client's FIN
			return err
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		<-over // it never finishes
		_, err := c.Write([]byte("y"))
		saw <- err
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, server)
	r.configure(quickPolicy + deadServices)
	p := r.start()
	c := r.dial("192.0.2.10:7")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 {
		t.Errorf("the other direction gave %d bytes and %v, want it to flow on", n, err)
	}
	toldReset(t, c)
	eventually(t, soon, "the backend's kernel has the reset", func() bool {
		states, err := r.backend.CountTCP()
		if err != nil {
			t.Fatal(err)
		}
		return states[lab.CloseWait] == 0
	})
	close(over)
	e := r.ended("web", services.HalfCloseTimeout)
	if e.First.Who != "client" || e.First.How != services.ByFIN {
		t.Errorf("first was %s by %s, want the client by fin", e.First.Who, e.First.How)
	}
	select {
	case err := <-saw:
		if err == nil {
			t.Error("the backend could go on writing, want a reset")
		}
	case <-time.After(soon):
		t.Error("the backend was not told")
	}
	r.goesOn("192.0.2.10:9")
	p.stop()
}

// A client that takes our FIN and never sends its own is bounded by fin_wait2,
// although nobody has closed: its kernel would answer for ever.
func TestAClientThatNeverFinishesEndsWithFinWait2(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	r.configure(quickPolicy + "services: {time: {type: daytime, listen: \"wan0:13\"}}\n")
	p := r.start()
	c := r.dial("192.0.2.10:13")
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	r.row("time", "FIN-WAIT-2 is shown", func(row services.Row) bool { return row.State == "FIN-WAIT-2" })
	r.ended("time", services.FinWait2Timeout)
	eventually(t, soon, "the client's kernel knows", func() bool {
		_, err := c.Write([]byte("x"))
		return err != nil
	})
	p.stop()
}

// Signals interrupt system calls: EINTR is neither the end of a connection nor
// an error of it.
func TestSignalsEndNoConnection(t *testing.T) {
	t.Parallel()
	r := newDeadRig(t)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	r.configure(quickPolicy + deadServices)
	p := r.start()
	c := r.dial("192.0.2.10:7")
	for i := range 300 {
		p.signal(syscall.SIGURG) // Go's runtime handles it in every thread, and the program ignores it
		if i%3 == 0 {
			exchange(t, c, "through the noise\n", "through the noise\n")
		}
	}
	r.row("web", "the connection lives", func(row services.Row) bool { return row.State == "ESTABLISHED/ESTABLISHED" })
	end := polite(t, c)
	p.stop()
	if err := <-end; err != nil {
		t.Errorf("the client got %v, want FIN", err)
	}
}
