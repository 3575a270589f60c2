package stack_test

import (
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// twins are two stacks joined in memory, by whose clock hours pass at once.
type twins struct {
	clock *faketime.ManualClock
	cut   atomic.Bool // nothing passes
	deaf  atomic.Bool // only ARP passes
	a, b  *stack.Stack
	flows *flow.Table // of a
	log   journal
}

// lead is an end of the twins' line.
type lead struct {
	gstack.LinkEndpoint
	twins *twins
}

// WritePackets implements stack.LinkWriter.
func (l lead) WritePackets(p gstack.PacketBufferList) (int, tcpip.Error) {
	if l.twins.cut.Load() || l.twins.deaf.Load() && p.AsSlice()[0].NetworkProtocolNumber != header.ARPProtocolNumber {
		return p.Len(), nil
	}
	return l.LinkEndpoint.WritePackets(p)
}

// Capabilities and ARPHardwareType make neighbours ask for each other.
func (lead) Capabilities() gstack.LinkEndpointCapabilities {
	return gstack.CapabilityResolutionRequired
}

// ARPHardwareType implements stack.LinkEndpoint.
func (lead) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// newTwins makes them; the list of policies is for a alone.
func newTwins(t *testing.T, list ...config.Policy) *twins {
	t.Helper()
	w := &twins{clock: faketime.NewManualClock()}
	a, b := pipe.New("\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", 1500)
	w.a = w.start(t, a, box4, policies(list...))
	w.b = w.start(t, b, peer4, policies(quick("default", func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
		p.UserTimeout, p.CloseWait = config.Off, config.Off
	})))
	return w
}

func (w *twins) start(t *testing.T, end *pipe.Endpoint, addr netip.Addr, p map[string]config.Policy) *stack.Stack {
	t.Helper()
	i := config.Interface{Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}}
	type made struct {
		s   *stack.Stack
		err error
	}
	flows := flow.New(flow.Options{Policies: p, Clock: w.clock})
	if addr == box4 {
		w.flows = flows
	}
	done := make(chan made, 1)
	go func() { // received from below
		s, err := stack.New(limit(t), stack.Options{
			Config: &config.Config{Interfaces: []config.Interface{i}, Policies: p},
			Links:  []stack.Link{{Interface: i, Endpoint: &watched{LinkEndpoint: lead{end, w}, filter: flows.Card()}}},
			Flows:  flows,
			Log:    w.log.log(),
			Clock:  w.clock,
		})
		done <- made{s, err}
	}()
	var m made
	within(t, 5*time.Second, "the stack made", func() bool {
		w.clock.Advance(10 * time.Millisecond)
		select {
		case m = <-done:
			return true
		default:
			return false
		}
	})
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(m.s.Close)
	return m.s
}

// dialled is a connection of a to b, under a policy of a.
func (w *twins) dialled(t *testing.T, policy string) (ours, theirs *stack.Conn) {
	t.Helper()
	return w.dialledAt(t, 80, policy)
}

// dialledAt is dialled, to another port of b.
func (w *twins) dialledAt(t *testing.T, port uint16, policy string) (ours, theirs *stack.Conn) {
	t.Helper()
	l, err := w.b.Listen(netip.AddrPortFrom(peer4, port), "default")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err = w.a.Dial(l.Addr(), policy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ours.Abort)
	if err := await(t, ours, ours.Established); err != nil {
		t.Fatal(err)
	}
	return ours, accept(t, l)
}

// dies checks that the connection lives before a time and is dead after it,
// for want of an answer to what.
func (w *twins) dies(t *testing.T, c *stack.Conn, between, and time.Duration, what stack.Unanswered) {
	t.Helper()
	w.clock.Advance(between)
	if err := c.Established(); err != nil && err != syscall.EAGAIN {
		t.Fatalf("dead before %v: %v", between, err)
	}
	w.clock.Advance(and - between)
	err := c.Established()
	if !errors.Is(err, syscall.ETIMEDOUT) {
		t.Fatalf("after %v it is %s: %v; want %v", and, c.State(), err, syscall.ETIMEDOUT)
	}
	var timeout *stack.TimeoutError
	if !errors.As(err, &timeout) || timeout.What != what {
		t.Errorf("it died because %q, want %q", err, what)
	}
	if _, again := c.TryRead(make([]byte, 1)); !errors.Is(again, syscall.ETIMEDOUT) {
		t.Errorf("a reader is told %v, want %v", again, syscall.ETIMEDOUT)
	}
}

func TestAVanishedIdlePeerIsNoticedAfterSeventyFiveSeconds(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	c, _ := w.dialled(t, "default")
	w.cut.Store(true)
	w.dies(t, c, 74*time.Second, 76*time.Second, stack.UnansweredProbes)
	// By then, ARP has found out as well that the neighbour is gone.
	if err := c.Established(); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("%v does not tell what ARP said, %v", err, syscall.EHOSTUNREACH)
	}
}

func TestAVanishedPeerBehindARouterIsNoticedAsSoon(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	c, _ := w.dialled(t, "default")
	w.deaf.Store(true)
	w.dies(t, c, 74*time.Second, 76*time.Second, stack.UnansweredProbes)
	if err := c.Established(); errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("%v, though the router answered", err)
	}
}

func TestWithoutKeepaliveAnIdlePeerMayBeSilentForADay(t *testing.T) {
	t.Parallel()
	w := newTwins(t, quick("calm", func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
		p.UserTimeout = config.Off
	}))
	c, _ := w.dialled(t, "calm")
	sent := c.Info().SegsOut
	w.cut.Store(true)
	w.clock.Advance(24 * time.Hour)
	if err := c.Established(); err != nil {
		t.Errorf("it died: %v", err)
	}
	if got := c.Info().SegsOut; got != sent {
		t.Errorf("%d segments were sent to an idle peer", got-sent)
	}
}

func TestUnacknowledgedDataEndsAConnectionAfterUserTimeout(t *testing.T) {
	t.Parallel()
	w := newTwins(t, quick("short", func(p *config.Policy) { p.UserTimeout = 20 * time.Second }))
	c, _ := w.dialled(t, "short")
	w.cut.Store(true)
	write(t, c, "lost")
	w.dies(t, c, 19*time.Second, 22*time.Second, stack.UnansweredData)
}

func TestWithoutUserTimeoutRetransmissionsEndIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		detection string
		after     time.Duration
	}{
		// The first RTO is a second (RFC 6298, 2.1), doubled to at most max_rto 60 s:
		// eight retries after 1+2+4+8+16+32+60+60 seconds, and 60 for the last one.
		{"sack", 243 * time.Second},
		// The first retry is the tail probe (RFC 8985, 7.2), which doubles nothing.
		{"rack", 183 * time.Second},
	} {
		t.Run(c.detection, func(t *testing.T) {
			t.Parallel()
			w := newTwins(t, quick("default", func(p *config.Policy) {
				p.UserTimeout = config.Off
				p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
				p.Retransmit.LossDetection = c.detection
			}))
			conn, _ := w.dialled(t, "default")
			w.cut.Store(true)
			write(t, conn, "lost")
			w.dies(t, conn, c.after-time.Second, c.after+time.Second, stack.UnansweredRetry)
			if got := conn.Info().Retrans; got != 8 {
				t.Errorf("%d retransmissions, want max_retries 8", got)
			}
		})
	}
}

func TestASYNWithoutAnswerTimesOut(t *testing.T) {
	t.Parallel()
	w := newTwins(t)
	w.deaf.Store(true)
	c, err := w.a.Dial(netip.AddrPortFrom(peer4, 80), "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	if err := c.Established(); err != syscall.EAGAIN {
		t.Fatalf("a handshake under way is %v, want %v", err, syscall.EAGAIN)
	}
	// Repeated after 1, 3, 7 and 15 s: syn_retries is 4.
	w.dies(t, c, 30*time.Second, 32*time.Second, stack.UnansweredSYN)
	if got := c.Life().SynRetrans; got != 4 {
		t.Errorf("our SYN was sent again %d times, want 4", got)
	}
}

func TestFinWait2LastsAsLongAsThePolicySays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		limit       time.Duration
		alive, gone time.Duration
	}{
		{"ten seconds", 10 * time.Second, 9 * time.Second, 11 * time.Second},
		{"off is the longest there is", config.Off, 119 * time.Second, 121 * time.Second},
		{"a day is the longest there is", 24 * time.Hour, 119 * time.Second, 121 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newTwins(t, quick("p", func(p *config.Policy) { p.FinWait2 = c.limit }))
			ours, theirs := w.dialled(t, "p")
			if err := ours.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			within(t, 5*time.Second, "our FIN acknowledged", ours.FinAcked)
			if err := ours.Close(); err != nil {
				t.Fatal(err)
			}
			w.clock.Advance(c.alive)
			if got := w.a.States()["FIN-WAIT-2"]; got != 1 {
				t.Errorf("after %v there are %v, want one in FIN-WAIT-2", c.alive, w.a.States())
			}
			w.clock.Advance(c.gone - c.alive)
			within(t, 5*time.Second, "the connection gone", func() bool { return len(w.a.States()) == 0 })
			if err := ending(t, theirs); err != io.EOF {
				t.Errorf("the peer reads %v, want our FIN", err)
			}
		})
	}
}

func TestFinWait2OfAConnectionStillHeldHasNoLimit(t *testing.T) {
	t.Parallel()
	w := newTwins(t, quick("p", func(p *config.Policy) {
		p.FinWait2 = 10 * time.Second
		p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
	}))
	ours, theirs := w.dialled(t, "p")
	if err := ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "our FIN acknowledged", ours.FinAcked)
	w.clock.Advance(time.Hour)
	write(t, theirs, "late")
	if got := read(t, ours, 4); got != "late" {
		t.Errorf("heard %q", got)
	}
}

func TestTimeWaitLastsAsLongAsThePolicySays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		limit time.Duration
	}{{"half a minute", 30 * time.Second}, {"off", config.Off}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newTwins(t, quick("default", func(p *config.Policy) {
				p.TimeWait.Duration = c.limit
				// gVisor would probe in TIME-WAIT too, and end it.
				p.Keepalive = config.Keepalive{Idle: 5 * time.Second, Interval: time.Second, Probes: 2}
			}))
			ours, theirs := w.dialled(t, "default")
			if err := ours.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := ending(t, theirs); err != io.EOF {
				t.Fatal(err)
			}
			if err := theirs.Close(); err != nil {
				t.Fatal(err)
			}
			if err := ending(t, ours); err != io.EOF {
				t.Fatal(err)
			}
			if err := ours.Close(); err != nil {
				t.Fatal(err)
			}
			w.cut.Store(true)
			if c.limit > 0 {
				w.clock.Advance(c.limit - time.Second)
				if got := w.a.States()["TIME-WAIT"]; got != 1 {
					t.Errorf("a second before the end there are %v, want one in TIME-WAIT", w.a.States())
				}
				w.clock.Advance(2 * time.Second)
			} else {
				w.clock.Advance(0)
			}
			within(t, 5*time.Second, "the connection gone", func() bool { return len(w.a.States()) == 0 })
			if !ours.FinAcked() {
				t.Error("our FIN is not acknowledged, after all")
			}
		})
	}
}

// The shortest and longest RTO are checked against each other and against
// gVisor's defaults: every order that a configuration allows has to be taken.
func TestAnyRetransmissionBoundsAreTaken(t *testing.T) {
	t.Parallel()
	for _, r := range []config.Retransmit{
		{MinRTO: 10 * time.Millisecond, MaxRTO: 20 * time.Millisecond, MaxRetries: 1},
		{MinRTO: 150 * time.Second, MaxRTO: 200 * time.Second, MaxRetries: 15},
		{}, // gVisor's own
	} {
		w := newTwins(t, quick("default", func(p *config.Policy) {
			p.Retransmit, p.UserTimeout = r, config.Off
			p.Keepalive = config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1}
		}))
		c, _ := w.dialled(t, "default")
		w.cut.Store(true)
		write(t, c, "lost")
		w.clock.Advance(time.Hour)
		want := r.MaxRetries
		if want == 0 {
			want = 15 // as Linux's tcp_retries2
		}
		var timeout *stack.TimeoutError
		if err := c.Established(); !errors.As(err, &timeout) || timeout.What != stack.UnansweredRetry {
			t.Errorf("%+v: after an hour it is %v", r, err)
		}
		if got := c.Info().Retrans; got != uint64(want) {
			t.Errorf("%+v: %d retransmissions, want %d", r, got, want)
		}
	}
}
