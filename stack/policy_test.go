package stack_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/stack"
)

// fast notices a vanished peer after 600 ms.
func fast(name string) config.Policy {
	return quick(name, func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: 300 * time.Millisecond, Interval: 100 * time.Millisecond, Probes: 3}
		p.UserTimeout = config.Off
	})
}

// unwatched never gives an idle peer up.
func unwatched(name string) config.Policy {
	return quick(name, func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
		p.UserTimeout = config.Off
	})
}

// death waits until the connection is dead and checks why and when.
func death(t *testing.T, c *stack.Conn, since time.Time, from, to time.Duration, what stack.Unanswered) {
	t.Helper()
	err := await(t, c, func() error {
		if err := c.Established(); err != nil {
			return err
		}
		return syscall.EAGAIN
	})
	took := time.Since(since)
	var timeout *stack.TimeoutError
	if !errors.Is(err, syscall.ETIMEDOUT) || !errors.As(err, &timeout) {
		t.Fatalf("it ended with %v, want %v", err, syscall.ETIMEDOUT)
	}
	if timeout.What != what {
		t.Errorf("it ended because %q, want %q", timeout.What, what)
	}
	if took < from || took > to {
		t.Errorf("noticed after %v, want %v to %v", took, from, to)
	}
}

func TestEachListenersPolicyWatchesItsOwnConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true, policies: []config.Policy{fast("fast"), unwatched("unwatched")}})
	// Linux leaves all but one probe in half a second without an answer.
	labtest.Sysctl(t, r.peer, "net.ipv4.tcp_invalid_ratelimit", "0")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			watched, _ := r.accepted(t, r.listen(t, f.box, 80, "fast"))
			forgotten, client := r.accepted(t, r.listen(t, f.box, 81, "unwatched"))
			// A peer that answers is not given up, however idle.
			before := watched.Info().SegsIn
			within(t, 5*time.Second, "four probes answered", func() bool { return watched.Info().SegsIn >= before+4 })
			if err := watched.Established(); err != nil {
				t.Fatalf("a peer that answers was given up: %v", err)
			}
			cut := time.Now()
			r.line.Cut()
			death(t, watched, cut, 300*time.Millisecond, 2*time.Second, stack.UnansweredProbes)
			if got := forgotten.State(); got != "ESTABLISHED" {
				t.Errorf("the other listener's connection is %s, want ESTABLISHED", got)
			}
			r.line.Mend()
			sayTo(t, client, "still here")
			if got := read(t, forgotten, 10); got != "still here" {
				t.Errorf("heard %q", got)
			}
		})
	}
}

func TestADialledConnectionIsWatchedToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true, policies: []config.Policy{fast("fast")}})
	server := labtest.Echo(t, r.peer, netip.AddrPortFrom(peer4, 7).String())
	c, err := r.dial(t, netip.MustParseAddrPort(server.Addr()), "fast")
	if err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	r.line.Cut()
	death(t, c, cut, 500*time.Millisecond, 2*time.Second, stack.UnansweredProbes)
}

func TestUserTimeoutEndsAConnectionWithUnacknowledgedData(t *testing.T) {
	t.Parallel()
	short := unwatched("short")
	short.UserTimeout = 500 * time.Millisecond
	r := newRig(t, want{line: true, policies: []config.Policy{short, unwatched("unwatched")}})
	c, _ := r.accepted(t, r.listen(t, box4, 80, "short"))
	other, _ := r.accepted(t, r.listen(t, box4, 81, "unwatched"))
	cut := time.Now()
	r.line.Cut()
	write(t, c, "lost")
	write(t, other, "lost too")
	death(t, c, cut, 450*time.Millisecond, 2*time.Second, stack.UnansweredData)
	if got := other.State(); got != "ESTABLISHED" {
		t.Errorf("the other listener's connection is %s, want ESTABLISHED", got)
	}
}

func TestRetriesAndRTOAreThoseOfThePolicy(t *testing.T) {
	t.Parallel()
	d := unwatched("quick")
	d.Retransmit = config.Retransmit{MinRTO: 20 * time.Millisecond, MaxRTO: 80 * time.Millisecond, MaxRetries: 4, SynRetries: 4}
	r := newRig(t, want{line: true, policies: []config.Policy{d}})
	c, client := r.accepted(t, r.listen(t, box4, 80, "quick"))
	// An RTT is measured with data, without it the RTO is a second.
	write(t, c, "measure")
	hear(t, client, 7)
	within(t, 10*time.Second, "an RTT", func() bool { return c.Info().RTT > 0 })
	before := c.Info().Retrans
	cut := time.Now()
	r.line.Cut()
	write(t, c, "lost")
	// 20 to 80 ms each, four times sent again, and once waited.
	death(t, c, cut, 100*time.Millisecond, time.Second, stack.UnansweredRetry)
	// The tail loss probe (RFC 8985, 7) is counted as well.
	if got := c.Info().Retrans - before; got < 4 || got > 5 {
		t.Errorf("%d retransmissions, want 4 and perhaps a tail loss probe", got)
	}
}

func TestAPolicyThatThereIsNot(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	if _, err := r.Dial(netip.AddrPortFrom(peer4, 80), "none"); err == nil {
		t.Error("dials under a policy that there is not")
	}
}
