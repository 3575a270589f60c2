package stack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack"
)

// walk is the way of a connection through the states.
func walk(l tcpinfo.Life) string {
	var names []string
	for _, s := range l.Steps {
		names = append(names, s.State)
	}
	return strings.Join(names, " ")
}

// walked waits until the connection has gone that way.
func walked(t *testing.T, c *stack.Conn, want string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for walk(c.Life()) != want {
		if time.Now().After(deadline) {
			t.Fatalf("it went %s, want %s", walk(c.Life()), want)
		}
		time.Sleep(2 * time.Millisecond) // a poll with a deadline
	}
}

// resets counts the RSTs on the peer's card.
func resets(c *lab.Capture) (n int) {
	for _, s := range c.Segments() {
		if s.Flags.Has(lab.RST) {
			n++
		}
	}
	return n
}

func TestWhoClosesFirstIsInTimeWaitAndGVisorKeepsNothing(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, want{})
			wire := labtest.Capture(t, r.peer, "eth0")
			c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
			closeWrite(t, c)
			walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2")
			if _, err := io.Copy(io.Discard, client); err != nil {
				t.Fatal(err)
			}
			closeWrite(t, client)
			walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT")
			if err := ending(t, c); err != io.EOF {
				t.Errorf("the reader is told %v, want %v", err, io.EOF)
			}
			if got := c.State(); got != "TIME-WAIT" {
				t.Errorf("it is %s, want TIME-WAIT", got)
			}
			l := c.Life()
			if l.FinFirst != tcpinfo.Us || !l.FinAcked || !l.PeerFin || l.TimeWaitLeft < 50*time.Second {
				t.Errorf("our FIN first, both acknowledged, a minute left: got %+v", l)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if got := r.States(); got["TIME-WAIT"] != 1 || len(got) != 1 {
				t.Errorf("there are %v, want one in TIME-WAIT", got)
			}
			if n := resets(wire); n != 0 {
				t.Errorf("%d RSTs are on the wire", n)
			}
		})
	}
}

func TestWhenThePeerClosesFirstWeEndInLastAck(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	closeWrite(t, client)
	walked(t, c, "SYN-RECEIVED ESTABLISHED CLOSE-WAIT")
	write(t, c, "the other way it still goes")
	hear(t, client, 27)
	closeWrite(t, c)
	walked(t, c, "SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED")
	l := c.Life()
	if l.FinFirst != tcpinfo.Peer || !l.FinAcked || !l.PeerFin || l.RstSent || l.RstReceived {
		t.Errorf("the peer's FIN first, both acknowledged, no RST: got %+v", l)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := r.flows.Len(); n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

// FINs that cross: neither end has seen the other's when it sends its own.
func TestFinsThatCrossGoThroughClosing(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	r.line.CutDirection(lab.AToB) // what we send is lost
	closeWrite(t, c)
	walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1")
	closeWrite(t, client)
	walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 CLOSING")
	r.line.Mend()
	walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 CLOSING TIME-WAIT")
	if l := c.Life(); l.FinRetrans == 0 {
		t.Errorf("our FIN was lost and not sent again: %+v", l)
	}
}

// Our last ACK is lost: the peer says FIN again, and TIME-WAIT answers again
// and begins anew.
func TestALostLastAckIsSentAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	closeWrite(t, c)
	walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2")
	if _, err := io.Copy(io.Discard, client); err != nil {
		t.Fatal(err)
	}
	r.line.CutDirection(lab.AToB)
	closeWrite(t, client)
	walked(t, c, "SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := kernelState(t, r, lab.LastAck); got != 1 {
		t.Errorf("%d sockets of the peer are in LAST-ACK, want the one whose FIN nobody acknowledged", got)
	}
	r.line.Mend()
	within(t, 10*time.Second, "the peer's socket closed", func() bool { return kernelState(t, r, lab.LastAck) == 0 })
	if l := c.Life(); l.PeerFinAgain == 0 || l.TimeWaitLeft < 55*time.Second {
		t.Errorf("the peer's FIN came again and TIME-WAIT began anew: got %+v", l)
	}
	if got := r.flows.Count.TimeWaitACK.Load(); got == 0 {
		t.Error("no answer of TIME-WAIT's is counted")
	}
}

func kernelState(t *testing.T, r *rig, s lab.State) int {
	t.Helper()
	n, err := r.peer.CountTCP()
	if err != nil {
		t.Fatal(err)
	}
	return n[s]
}

// A client that uses its port again finds the service, though the old
// connection is in TIME-WAIT here (RFC 6191).
func TestAClientMayUseItsPortAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reuse string
		again bool
	}{{"newer-syn", true}, {"never", false}} {
		t.Run(c.reuse, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, want{policies: []config.Policy{quick("p", func(p *config.Policy) { p.TimeWait.Reuse = c.reuse })}})
			l := r.listen(t, box4, 80, "p")
			from := netip.AddrPortFrom(peer4, 40000)
			r.oneFrom(t, l, from)
			ctx, cancel := context.WithCancel(limit(t))
			defer cancel()
			var result error
			done := make(chan struct{})
			go func() { // waited for below
				defer close(done)
				client, err := r.peer.DialFrom(ctx, from, l.Addr())
				if err == nil {
					err = client.Close()
				}
				result = err
			}()
			select {
			case <-done:
				if !c.again || result != nil {
					t.Errorf("connected: %v", result)
				}
			case <-time.After(1500 * time.Millisecond):
				if c.again {
					t.Error("not connected after 1.5 s")
				}
				if got := r.flows.Count.TimeWaitACK.Load(); got == 0 {
					t.Error("the SYN got no ACK")
				}
			}
			if got := r.flows.Count.Reused.Load() == 1; got != c.again {
				t.Errorf("counted as reused: %v, want %v", got, c.again)
			}
			cancel()
			<-done
		})
	}
}

// oneFrom is a connection from a port that we close first, to TIME-WAIT.
func (r *rig) oneFrom(t *testing.T, l *stack.Listener, from netip.AddrPort) {
	t.Helper()
	client, err := r.peer.DialFrom(limit(t), from, l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	closeWrite(t, c)
	if _, err := io.Copy(io.Discard, client); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "TIME-WAIT", isState(c, "TIME-WAIT"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// Our last ACK has come: before, the peer's kernel gives the port to nobody.
	within(t, 5*time.Second, "the peer's socket closed", func() bool { return kernelState(t, r, lab.LastAck) == 0 })
}

// Both ends dial each other, and their SYNs cross: one connection.
func TestTwoEndsThatDialEachOtherGetOneConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	r.accepted(t, r.listen(t, box4, 79, "default")) // both know each other's link addresses
	r.line.CutDirection(lab.AToB)                   // our SYN is lost, so that the peer's crosses it
	theirs := netip.AddrPortFrom(peer4, 7000)
	ours, err := r.Dial(theirs, "default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ours.Abort)
	within(t, 5*time.Second, "our SYN sent", func() bool { return walk(ours.Life()) == "SYN-SENT" })
	type result struct {
		c   io.ReadWriteCloser
		err error
	}
	done := make(chan result, 1)
	ctx := limit(t)
	go func() { // received from below
		c, err := r.peer.DialFrom(ctx, theirs, ours.LocalAddr())
		done <- result{c, err}
	}()
	within(t, 5*time.Second, "the peer's SYN", func() bool { return strings.Contains(walk(ours.Life()), "SYN-RECEIVED") })
	r.line.Mend()
	if err := await(t, ours, ours.Established); err != nil {
		t.Fatal(err)
	}
	res := <-done
	if res.err != nil {
		t.Fatal(res.err)
	}
	defer res.c.Close()
	write(t, ours, "hello")
	p := make([]byte, 5)
	if _, err := io.ReadFull(res.c, p); err != nil || string(p) != "hello" {
		t.Errorf("heard %q, %v", p, err)
	}
	if got := walk(ours.Life()); got != "SYN-SENT SYN-RECEIVED ESTABLISHED" {
		t.Errorf("it went %s", got)
	}
}

func TestAHandshakeTellsItsOptions(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	server := labtest.Echo(t, r.peer, netip.AddrPortFrom(peer4, 7).String())
	dialled, err := r.dial(t, netip.MustParseAddrPort(server.Addr()), "default")
	if err != nil {
		t.Fatal(err)
	}
	accepted, _ := r.accepted(t, r.listen(t, box4, 80, "default"))
	for name, c := range map[string]*stack.Conn{"dialled": dialled, "accepted": accepted} {
		o := c.Life().Options
		if !o.Seen || o.SndMSS != 1460 || o.RcvMSS != 1460 || o.SndScale <= 0 || o.RcvScale <= 0 || !o.SACK || !o.Timestamps {
			t.Errorf("%s: SACK, timestamps, window scaling and an MSS of 1460 both ways: got %+v", name, o)
		}
		if got := c.Life().Dialled; got != (name == "dialled") {
			t.Errorf("%s: said to be dialled: %v", name, got)
		}
	}
}

func TestASilentClientOfAHandshakeIsGivenUpAfterSynRetries(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true, policies: []config.Policy{quick("p", func(p *config.Policy) { p.Retransmit.SynRetries = 1 })}})
	labtest.Sysctl(t, r.peer, "net.ipv4.tcp_syn_retries", "1") // SYNs at 0 and 1 s: none begins it anew
	l := r.listen(t, box4, 80, "p")
	r.accepted(t, r.listen(t, box4, 79, "default")) // both know each other's link addresses
	r.line.CutDirection(lab.AToB)                   // our SYN-ACKs are lost
	ctx, cancel := context.WithCancel(limit(t))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := r.peer.Dial(ctx, "tcp", l.Addr().String()); err == nil {
			_ = c.Close() // it must not come to that; the test has said so
		}
	}()
	within(t, 5*time.Second, "a half-open connection", func() bool { return r.States()["SYN-RECEIVED"] == 1 })
	begin := time.Now()
	within(t, 20*time.Second, "given up", func() bool { return r.States()["SYN-RECEIVED"] == 0 })
	// Repeated after one second, given up after three; with the default after 31.
	if took := time.Since(begin); took < 2*time.Second || took > 10*time.Second {
		t.Errorf("given up after %v, want 3 s", took)
	}
	cancel()
	<-done
}

// Each closing state has its bound, with the kernel as the peer: what it no
// longer hears or says ends the connection, and the bound is the reason.
func TestEachClosingStateEndsByItsOwnBound(t *testing.T) {
	t.Parallel()
	bound := 1500 * time.Millisecond
	for state, tt := range map[string]struct {
		change func(*config.Policy)
		reach  func(*rig, *stack.Conn, *net.TCPConn)
		rule   tcpinfo.Rule
		told   bool // the line still carries our RST
	}{
		"FIN-WAIT-1": {func(p *config.Policy) { p.FinWait1 = bound }, func(r *rig, c *stack.Conn, _ *net.TCPConn) {
			r.line.Cut()
			closeWrite(t, c)
		}, tcpinfo.FinWait1, false},
		"CLOSING": {func(p *config.Policy) { p.Closing = bound }, func(r *rig, c *stack.Conn, client *net.TCPConn) {
			r.line.CutDirection(lab.AToB)
			closeWrite(t, c)
			closeWrite(t, client)
		}, tcpinfo.Closing, false},
		"CLOSE-WAIT": {func(p *config.Policy) { p.CloseWait = bound }, func(_ *rig, _ *stack.Conn, client *net.TCPConn) {
			closeWrite(t, client)
		}, tcpinfo.CloseWait, true},
		"LAST-ACK": {func(p *config.Policy) { p.LastAck = bound }, func(r *rig, c *stack.Conn, client *net.TCPConn) {
			closeWrite(t, client)
			within(t, 10*time.Second, "CLOSE-WAIT", isState(c, "CLOSE-WAIT"))
			r.line.Cut()
			closeWrite(t, c)
		}, tcpinfo.LastAck, false},
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, want{line: true, policies: []config.Policy{quick("p", tt.change)}})
			c, client := r.accepted(t, r.listen(t, box4, 80, "p"))
			tt.reach(r, c, client)
			within(t, 10*time.Second, state, isState(c, state))
			began := time.Now()
			within(t, 20*time.Second, "the end", isState(c, "CLOSED"))
			if took := time.Since(began); took < bound/2 || took > 4*bound {
				t.Errorf("it ended after %v, want %v", took, bound)
			}
			var limit *stack.LimitError
			if err := ending(t, c); !errors.As(err, &limit) || limit.Limit != tt.rule || limit.State != state {
				t.Errorf("it ended with %v, want %s in %s", err, tt.rule, state)
			}
			if !tt.told {
				return
			}
			if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the peer is told %v, want %v", err, syscall.ECONNRESET)
			}
		})
	}
}
