package stack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestAKernelClientIsAcceptedAndHeard(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
			local := client.LocalAddr().(*net.TCPAddr).AddrPort()
			if got, want := c.RemoteAddr(), netip.AddrPortFrom(local.Addr().Unmap(), local.Port()); got != want {
				t.Errorf("remote address is %v, want %v", got, want)
			}
			if got, want := c.LocalAddr(), netip.AddrPortFrom(f.box, 80); got != want {
				t.Errorf("local address is %v, want %v", got, want)
			}
			if err := c.Established(); err != nil {
				t.Errorf("an accepted connection is not established: %v", err)
			}
			sayTo(t, client, "good day")
			if got := read(t, c, 8); got != "good day" {
				t.Errorf("heard %q", got)
			}
			write(t, c, "and to you")
			if got := hear(t, client, 10); got != "and to you" {
				t.Errorf("the client heard %q", got)
			}
		})
	}
}

func TestAKernelServerIsDialledAndEchoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			server := labtest.Echo(t, r.peer, netip.AddrPortFrom(f.peer, 7).String())
			c, err := r.dial(t, netip.MustParseAddrPort(server.Addr()), "default")
			if err != nil {
				t.Fatal(err)
			}
			if got := c.LocalAddr().Addr(); got != f.box {
				t.Errorf("dialled from %v, want %v", got, f.box)
			}
			write(t, c, "echo")
			if got := read(t, c, 4); got != "echo" {
				t.Errorf("heard %q", got)
			}
			info := c.Info()
			if !info.SACK || !info.Timestamps || info.RTT <= 0 || info.SndCwnd == 0 || info.State != "ESTABLISHED" {
				t.Errorf("SACK, timestamps, a round-trip time and a window are missing in %+v", info)
			}
			if info.SndMSS < 1380 || info.SndMSS > 1460 {
				t.Errorf("the MSS is said to be %d, on an Ethernet", info.SndMSS)
			}
		})
	}
}

func TestARefusedDialSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		c, err := r.dial(t, netip.AddrPortFrom(f.peer, 9), "default")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("%s: dial ended with %v, want %v", f.name, err, syscall.ECONNREFUSED)
		}
		if again := c.Established(); !errors.Is(again, syscall.ECONNREFUSED) {
			t.Errorf("%s: asked again it says %v", f.name, again)
		}
		if c.FinAcked() {
			t.Errorf("%s: a connection that never was has its FIN acknowledged", f.name)
		}
	}
}

func TestDialWithoutANeighbourIsUnreachable(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			nobody := f.peer.Next().Next()
			_, err := r.dial(t, netip.AddrPortFrom(nobody, 80), "default")
			if !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("dial to an address that nobody has ended with %v, want %v", err, syscall.EHOSTUNREACH)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("that took %v, want about three probes a second apart", took)
			}
		})
	}
}

func TestDialWithoutARouteFailsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, to := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		_, err := r.Dial(netip.MustParseAddrPort(to), "default")
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("dial %s ended with %v", to, err)
		}
	}
}

func TestTheClientFinishesFirstAndStillHears(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
			sayTo(t, client, "that is all")
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := read(t, c, 11); got != "that is all" {
				t.Errorf("heard %q", got)
			}
			if err := ending(t, c); err != io.EOF {
				t.Fatalf("the FIN reads as %v, want %v", err, io.EOF)
			}
			if got := c.State(); got != "CLOSE-WAIT" {
				t.Errorf("state is %s, want CLOSE-WAIT", got)
			}
			write(t, c, "answer")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := hear(t, client, 6); got != "answer" {
				t.Errorf("the client heard %q", got)
			}
			if _, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("our FIN reads as %v, want %v", err, io.EOF)
			}
			within(t, 10*time.Second, "our FIN acknowledged", c.FinAcked)
			if got := c.State(); got != "CLOSED" {
				t.Errorf("state is %s, want CLOSED: the client keeps TIME-WAIT", got)
			}
		})
	}
}

func TestWeFinishFirstAndStillHear(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
			write(t, c, "that is all")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("a second CloseWrite says %v", err)
			}
			if got := hear(t, client, 11); got != "that is all" {
				t.Errorf("the client heard %q", got)
			}
			if _, err := client.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("our FIN reads as %v, want %v", err, io.EOF)
			}
			within(t, 10*time.Second, "FIN-WAIT-2", isState(c, "FIN-WAIT-2"))
			sayTo(t, client, "answer")
			if got := read(t, c, 6); got != "answer" {
				t.Errorf("heard %q", got)
			}
			client.Close()
			if err := ending(t, c); err != io.EOF {
				t.Fatalf("the client's FIN reads as %v, want %v", err, io.EOF)
			}
			if got := c.State(); got != "TIME-WAIT" || !c.FinAcked() {
				t.Errorf("state is %s, FIN acknowledged %v; want TIME-WAIT, true", got, c.FinAcked())
			}
			if _, err := c.TryWrite([]byte("more")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("writing after CloseWrite says %v, want %v", err, syscall.EPIPE)
			}
		})
	}
}

func TestOurFINIsAcknowledgedOnlyByItsACK(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	c, _ := r.accepted(t, r.listen(t, box4, 80, "default"))
	seen := labtest.Capture(t, r.peer, "eth0")
	if c.FinAcked() {
		t.Fatal("acknowledged before it was sent")
	}
	r.line.CutDirection(lab.BToA)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	fin, err := seen.Await(limit(t), func(s lab.Segment) bool { return !s.Outgoing && s.Flags.Has(lab.FIN) })
	if err != nil {
		t.Fatal(err)
	}
	// The peer acknowledges, and the line eats that.
	if _, err := seen.Await(limit(t), func(s lab.Segment) bool { return s.Outgoing && s.Ack == fin.Seq+uint32(fin.Len)+1 }); err != nil {
		t.Fatal(err)
	}
	if got := c.State(); c.FinAcked() || got != "FIN-WAIT-1" {
		t.Errorf("FIN acknowledged %v in state %s before any ACK arrived", c.FinAcked(), got)
	}
	r.line.Mend()
	within(t, 5*time.Second, "our FIN acknowledged", c.FinAcked)
	if got := c.State(); got != "FIN-WAIT-2" {
		t.Errorf("state is %s, want FIN-WAIT-2", got)
	}
}

func TestAbortIsARSTToThePeer(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	for _, f := range families {
		c, client := r.accepted(t, r.listen(t, f.box, 80, "default"))
		c.Abort()
		c.Abort()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client reads %v, want %v", f.name, err, syscall.ECONNRESET)
		}
		if got := c.State(); got != "CLOSED" || c.FinAcked() {
			t.Errorf("%s: state is %s, FIN acknowledged %v; want CLOSED, false", f.name, got, c.FinAcked())
		}
	}
}

func TestCloseWithUnreadDataIsARST(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	sayTo(t, client, "nobody reads this")
	within(t, 10*time.Second, "data received", func() bool { return c.Info().RcvQueue > 0 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestThePeersRSTIsToldToEveryReader(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	sayTo(t, client, "last words")
	within(t, 10*time.Second, "data received", func() bool { return c.Info().RcvQueue == 10 })
	if err := client.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	client.Close()
	within(t, 10*time.Second, "dead", isState(c, "CLOSED"))
	if err := c.Established(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Established says %v, want %v", err, syscall.ECONNRESET)
	}
	if got := read(t, c, 10); got != "last words" {
		t.Errorf("what arrived before the RST reads as %q", got)
	}
	for range 2 {
		if _, err := c.TryRead(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reading says %v, want %v", err, syscall.ECONNRESET)
		}
		if _, err := c.TryWrite([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("writing says %v, want %v", err, syscall.ECONNRESET)
		}
	}
}

func TestAFullSendBufferSaysTryAgainAndLater(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	c, client := r.accepted(t, r.listen(t, box4, 80, "default"))
	chunk := make([]byte, 1<<20)
	sent := 0
	for {
		n, err := c.TryWrite(chunk)
		sent += n
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.EAGAIN) {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	got := make(chan int64, 1)
	go func() { // received from below
		n, _ := io.Copy(io.Discard, client)
		got <- n
	}()
	if err := await(t, c, func() error {
		n, err := c.TryWrite([]byte("x"))
		sent += n
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != int64(sent) {
		t.Errorf("the client received %d bytes of %d", n, sent)
	}
}

func TestListenOnAnAddressOrPortThatIsNotFree(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	if _, err := r.Listen(l.Addr(), "default"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v, want %v", err, syscall.EADDRINUSE)
	}
	if _, err := r.Listen(netip.MustParseAddrPort("10.9.0.9:80"), "default"); err == nil {
		t.Error("listens on an address of nobody")
	}
	if _, err := r.Listen(netip.AddrPortFrom(box4, 81), "none"); err == nil {
		t.Error("listens under a policy that there is not")
	}
	l.Close()
	if _, err := l.TryAccept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting after Close says %v, want %v", err, net.ErrClosed)
	}
	r.listen(t, box4, 80, "default")
}
