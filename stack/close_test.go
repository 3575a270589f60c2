package stack_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestSettleWaitsForTheACKsOfConnectionsLetGo(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	l := r.listen(t, box4, 80, "default")
	first, _ := r.accepted(t, l)
	second, _ := r.accepted(t, l)
	idle, _ := r.accepted(t, l)
	r.line.Cut()
	if err := first.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got := r.Settle(short); got != 2 {
		t.Errorf("%d FINs are not acknowledged, want 2", got)
	}
	if got := r.States(); got["FIN-WAIT-1"] != 2 || got["ESTABLISHED"] != 1 || len(got) != 2 {
		t.Errorf("states are %v, want two in FIN-WAIT-1, one in ESTABLISHED", got)
	}
	r.line.Mend()
	if got := r.Settle(limit(t)); got != 0 {
		t.Errorf("%d FINs are not acknowledged after the line was mended", got)
	}
	if got := r.States(); got["FIN-WAIT-2"] != 2 || got["ESTABLISHED"] != 1 {
		t.Errorf("states are %v, want two in FIN-WAIT-2, one in ESTABLISHED", got)
	}
	if err := idle.Established(); err != nil {
		t.Errorf("the idle connection died: %v", err)
	}
}

func TestNoRSTForTimeWaitWhenTheCardClosesFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	seen := labtest.Capture(t, r.peer, "eth0")
	for _, f := range families {
		c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		client.Close()
		if err := ending(t, c); err != io.EOF {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		// Abort after the end does nothing to the wire either.
		c.Abort()
	}
	if got := r.States(); got["TIME-WAIT"] != 2 {
		t.Fatalf("states are %v, want two in TIME-WAIT", got)
	}
	if got := r.Settle(limit(t)); got != 0 {
		t.Errorf("%d FINs are not acknowledged", got)
	}
	r.close()
	r.close()
	if err := seen.Close(); err != nil { // it has what passed before
		t.Fatal(err)
	}
	for _, s := range seen.Segments() {
		if s.Flags.Has(lab.RST) {
			t.Errorf("a reset on the wire: %v", s)
		}
	}
}

func TestAbortInTimeWaitIsSilent(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	seen := labtest.Capture(t, r.peer, "eth0")
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	within(t, 10*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
	c.Abort()
	if got := c.State(); got != "TIME-WAIT" || !c.FinAcked() {
		t.Errorf("state is %s, FIN acknowledged %v; want TIME-WAIT, true", got, c.FinAcked())
	}
	if err := ping(r.peer, box4, time.Second); err != nil { // behind what Abort might have sent
		t.Fatal(err)
	}
	for _, s := range seen.Segments() {
		if s.Flags.Has(lab.RST) {
			t.Errorf("a reset on the wire: %v", s)
		}
	}
}

func TestClosingAListenerResetsWhoeverWasNotAccepted(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	client, err := r.peer.Dial(limit(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, client)
	within(t, 10*time.Second, "the connection in the queue", func() bool { return r.States()["ESTABLISHED"] == 1 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second Close says %v", err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want %v", err, syscall.ECONNRESET)
	}
}
