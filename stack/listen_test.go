package stack_test

import (
	"errors"
	"io"
	"net"
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
		within(t, 10*time.Second, "the connection in the queue", arrived(1))
		reset.Close()
		within(t, 10*time.Second, "the reset", arrived(0))
		c := accept(t, l)
		if err := ending(t, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: a client that has reset reads as %v", policy, err)
		}

		done := r.connect(t, l.Addr().String())
		sayTo(t, done, "bye")
		done.Close()
		within(t, 10*time.Second, "the FIN", func() bool { return r.States()["CLOSE-WAIT"] == 1 })
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
