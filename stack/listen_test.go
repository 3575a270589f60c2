package stack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
)

// Clients that are gone before somebody accepts them must not look like a
// failure to accept: a listener pauses after that.
func TestAClientThatIsGoneAlreadyIsAccepted(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{policies: []config.Policy{
		quick("reno", func(p *config.Policy) { p.Congestion = "reno" }),
	}})
	for _, policy := range []string{"default", "reno"} {
		l := r.listen(t, box4, 80, policy)

		reset := r.connect(t, l.Addr().String())
		if err := reset.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		arrived := func(n int) func() bool {
			return func() bool { return r.States()["ESTABLISHED"]+r.States()["CLOSE-WAIT"] == n }
		}
		within(t, time.Second, "the connection in the queue", arrived(1))
		reset.Close()
		within(t, time.Second, "the reset", arrived(0))
		c := accept(t, l)
		if err := ending(t, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: a client that has reset reads as %v", policy, err)
		}

		done := r.connect(t, l.Addr().String())
		sayTo(t, done, "bye")
		done.Close()
		within(t, time.Second, "the FIN", func() bool { return r.States()["CLOSE-WAIT"] == 1 })
		c = accept(t, l)
		if got := read(t, c, 3); got != "bye" {
			t.Errorf("%s: heard %q", policy, got)
		}
		if err := ending(t, c); err != io.EOF {
			t.Errorf("%s: a client that has finished reads as %v", policy, err)
		}
		c.Abort()
		l.Close()
	}
}

// connect is a connection of the peer's kernel.
func (r *rig) connect(t *testing.T, to string) *net.TCPConn {
	t.Helper()
	c, err := r.peer.Dial(limit(t), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// MUST-41, MUST-42, MUST-43: one port on several addresses, and connections
// beside those who listen.
func TestListenersOfOnePortDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	four, six := r.listen(t, box4, 80, "default"), r.listen(t, box6, 80, "default")
	a, _ := r.accepted(t, four)
	b, client := r.accepted(t, six)
	again, _ := r.accepted(t, four)
	for _, c := range []interface{ LocalAddr() netip.AddrPort }{a, again} {
		if c.LocalAddr() != four.Addr() {
			t.Errorf("accepted at %v, want %v", c.LocalAddr(), four.Addr())
		}
	}
	four.Close()
	sayTo(t, client, "on")
	if got := read(t, b, 2); got != "on" {
		t.Errorf("heard %q", got)
	}
}
