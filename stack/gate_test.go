package stack_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/stack"
)

func TestRefusingWithRSTSparesHandshakesAndConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	elsewhere := r.listen(t, box4, 81, "default")
	old, client := r.accepted(t, l)

	raw := labtest.Raw(t, r.peer, "eth0")
	s := r.stranger(t, raw, "10.9.0.77")
	s.tcp(t, 5000, l.Addr(), header.TCPFlagSyn, 1000, 0)
	synAck, err := raw.RecvSegment(limit(t), func(g lab.Segment) bool { return g.Dst.Port() == 5000 && g.Flags.Has(lab.SYN|lab.ACK) })
	if err != nil {
		t.Fatal(err)
	}

	r.Refuse(l.Addr(), "rst")
	if _, err := r.peer.Dial(limit(t), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new client is told %v, want %v", err, syscall.ECONNREFUSED)
	}
	if got := r.gate.Count.Reset.Load(); got != 1 {
		t.Errorf("%d refusals counted, want 1", got)
	}
	s.tcp(t, 5000, l.Addr(), header.TCPFlagAck, 1001, synAck.Seq+1)
	if got, want := accept(t, l).RemoteAddr(), netip.AddrPortFrom(s.addr, 5000); got != want {
		t.Errorf("accepted %v, want %v whose handshake was under way", got, want)
	}
	sayTo(t, client, "still here")
	if got := read(t, old, 10); got != "still here" {
		t.Errorf("heard %q", got)
	}
	r.accepted(t, elsewhere)

	r.gate.Allow(l.Addr())
	r.accepted(t, l)
}

func TestRefusingIPv6WithRST(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box6, 80, "default")
	r.Refuse(l.Addr(), "rst")
	if _, err := r.peer.Dial(limit(t), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new client is told %v, want %v", err, syscall.ECONNREFUSED)
	}
	l.Close()
	again := r.listen(t, box6, 80, "default") // ends the refusal
	r.accepted(t, again)
}

func TestRefusingWithSilenceSaysNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	r.Refuse(l.Addr(), "silence")
	seen := labtest.Capture(t, r.peer, "eth0")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.peer.Dial(ctx, "tcp", l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new client is told %v, want nothing", err)
	}
	for _, s := range seen.Segments() {
		if !s.Outgoing {
			t.Errorf("the client got %v", s)
		}
	}
	ignored := r.gate.Count.Ignored.Load()
	if ignored == 0 {
		t.Error("the ignored SYN is not counted")
	}
	l.Close() // the refusal stays, or gVisor would answer with RST
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.peer.Dial(ctx, "tcp", l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new client after the listener's end is told %v, want nothing", err)
	}
	l = r.listen(t, box4, 80, "default")
	r.Refuse(l.Addr(), "silence")
	r.gate.Allow(l.Addr())
	r.accepted(t, l)
}

func TestARealClientGetsThroughASYNFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	s := r.stranger(t, labtest.Raw(t, r.peer, "eth0"), "10.9.0.77")
	// Until the queue of half-open connections is full, and on.
	half := func() int { return r.States()["SYN-RECEIVED"] }
	sent := 0
	flood := func(n int) {
		for range n {
			port := uint16(1024 + sent%8192) // again and again: a busy machine loses some
			s.tcp(t, port, l.Addr(), header.TCPFlagSyn, uint32(port)<<8, 0)
			sent++
		}
	}
	// No faster than they are taken, or a slow machine takes the first of each
	// burst only.
	within(t, 30*time.Second, "a full queue", func() bool {
		before := half()
		flood(128)
		for end := time.Now().Add(50 * time.Millisecond); half() < before+64 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		return half() >= 4095
	})
	// Where SACK is agreed the queue was not full at that moment: no SYN cookie
	// can agree on it.
	var c *stack.Conn
	var client net.Conn
	for try := 0; c == nil || c.Info().SACK; try++ {
		if try == 20 {
			t.Fatal("there never was a SYN cookie")
		}
		flood(1000)
		c, client = r.accepted(t, l)
	}
	sayTo(t, client, "let me in")
	if got := read(t, c, 9); got != "let me in" {
		t.Errorf("heard %q", got)
	}
	if got := half(); got > 4096 {
		t.Errorf("%d half-open connections are kept, more than the queue", got)
	}
}
