package stack_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// between is a box with a card on either side: a client's kernel, and a
// backend's.
type between struct {
	*stack.Stack
	flows          *flow.Table
	client, server *lab.Host
	near, far      *lab.ImpairedLink // nil with plain wires
	owner          *owner
}

var (
	wan4, wan6       = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd01::1")
	lan4, lan6       = netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("fd02::1")
	client4, client6 = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2")
	server4, server6 = netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("fd02::2")
)

// owner is a service whose connections are carried.
type owner struct {
	backends []netip.AddrPort
	turn     atomic.Uint32
	mu       sync.Mutex
	ended    []*tcpinfo.Carried
	back     int // places given back unused
	tried    []error
}

func (o *owner) Choose(_, after netip.AddrPort) (netip.AddrPort, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.backends) == 0 {
		return netip.AddrPort{}, false
	}
	return o.backends[int(o.turn.Add(1)-1)%len(o.backends)], true
}

// have makes the next choice the first of these.
func (o *owner) have(backends ...netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.backends = backends
	o.turn.Store(0)
}

func (o *owner) Tried(_ netip.AddrPort, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tried = append(o.tried, err)
}

func (o *owner) Spared(netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.back++
}

func (o *owner) Ended(c *tcpinfo.Carried) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = append(o.ended, c)
}

func (o *owner) all() []*tcpinfo.Carried {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]*tcpinfo.Carried(nil), o.ended...)
}

// next waits for the n-th end.
func (o *owner) end(t *testing.T, n int) *tcpinfo.Carried {
	t.Helper()
	within(t, 20*time.Second, fmt.Sprintf("end %d", n), func() bool { return len(o.all()) >= n })
	return o.all()[n-1]
}

func newBetween(t *testing.T, impaired bool, change func(*config.Policy)) *between {
	t.Helper()
	box := labtest.Host(t, "box")
	b := &between{client: labtest.Host(t, "client"), server: labtest.Host(t, "server"), owner: &owner{}}
	silent(t, box)
	if impaired {
		b.near = labtest.WireImpaired(t, box, "wan0", b.client, "eth0", lab.Impairment{})
		b.far = labtest.WireImpaired(t, box, "lan0", b.server, "eth0", lab.Impairment{})
	} else {
		labtest.Wire(t, box, "wan0", b.client, "eth0")
		labtest.Wire(t, box, "lan0", b.server, "eth0")
	}
	labtest.Addr(t, b.client, "eth0", client4.String()+"/24", client6.String()+"/64")
	labtest.Addr(t, b.server, "eth0", server4.String()+"/24", server6.String()+"/64")
	p := quick("test", change)
	ids := new(atomic.Uint64)
	b.flows = flow.New(flow.Options{Policies: policies(p), IDs: func() uint64 { return ids.Add(1) }})
	gate := &stack.Gate{}
	wan := config.Interface{Name: "wan0", Addresses: prefixes(wan4.String()+"/24", wan6.String()+"/64")}
	lan := config.Interface{Name: "lan0", Addresses: prefixes(lan4.String()+"/24", lan6.String()+"/64")}
	var links []stack.Link
	var cards []*netif.Endpoint
	for _, i := range []config.Interface{wan, lan} {
		filter := b.flows.Card()
		card := openCard(t, box, i.Name, gate, filter)
		filter.Bind(card, card.Deliver)
		cards = append(cards, card)
		links = append(links, stack.Link{Interface: i, Endpoint: card.Port(0)})
	}
	var err error
	b.Stack, err = stack.New(limit(t), stack.Options{
		Config: &config.Config{Interfaces: []config.Interface{wan, lan}, Policies: policies(p)}, Links: links, Gate: gate, Flows: b.flows, IDs: ids,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range cards {
			_ = c.Close() // labtest.Close reports it
		}
		b.Stack.Close()
	})
	return b
}

// carry listens at an address and carries every connection to the backend.
func (b *between) carry(t *testing.T, at, backend netip.AddrPort, by tcpinfo.Carrier) {
	t.Helper()
	l, err := b.Listen(at, "test")
	if err != nil {
		t.Fatal(err)
	}
	b.owner.have(backend)
	b.Own("test", b.owner, flow.CarrierSettings{Policy: "test", ConnectTimeout: 2 * time.Second, ConnectRetries: 2})
	if err := b.Carry(at, "test", by); err != nil {
		t.Fatal(err)
	}
	done, wake := make(chan struct{}), make(chan struct{}, 1)
	var wg sync.WaitGroup
	l.Notify(func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-wake:
			}
			for c, err := l.TryAccept(); err == nil; c, err = l.TryAccept() {
				wg.Go(func() { b.splice(t, c, backend) })
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		wg.Wait()
		_ = l.Close()
	})
}

func (b *between) splice(t *testing.T, c *stack.Conn, backend netip.AddrPort) {
	d, err := b.DialHeld(backend, "test")
	if err != nil {
		t.Errorf("dial: %v", err)
		c.Abort()
		return
	}
	for end := time.Now().Add(10 * time.Second); d.Established() != nil && time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
	}
	if err := b.Splice(c, d, "test"); err != nil {
		t.Errorf("splice: %v", err)
		c.Abort()
		d.Abort()
	}
}

// pairs are the families of the two legs.
var pairs = []struct {
	name            string
	at, backend     netip.Addr
	client, backing netip.Addr
}{
	{"4to4", wan4, server4, client4, lan4},
	{"6to6", wan6, server6, client6, lan6},
	{"4to6", wan4, server6, client4, lan6},
	{"6to4", wan6, server4, client6, lan4},
}

func TestCarriedBytesArriveBothWays(t *testing.T) {
	for _, by := range []tcpinfo.Carrier{tcpinfo.Splice, tcpinfo.Direct} {
		for _, p := range pairs {
			t.Run(string(by)+p.name, func(t *testing.T) {
				b := newBetween(t, false, nil)
				up, down := lab.Blob{Size: 8 << 20, Seed: 1}, lab.Blob{Size: 8 << 20, Seed: 2}
				s, err := lab.BulkServer(limit(t), b.server, netip.AddrPortFrom(p.backend, 9000).String(), down, up)
				if err != nil {
					t.Fatal(err)
				}
				labtest.Close(t, s)
				at := netip.AddrPortFrom(p.at, 80)
				b.carry(t, at, netip.AddrPortFrom(p.backend, 9000), by)
				for n := 1; n <= 3; n++ {
					if _, err := lab.Bulk(limit(t), b.client, at.String(), up, down); err != nil {
						t.Fatalf("exchange %d: %v", n, err)
					}
					e := b.owner.end(t, n)
					if n > 1 && e.Carrier != by {
						t.Errorf("carried by %s, want %s", e.Carrier, by)
					}
					if e.Client.Sent != down.Size || e.Backend.Sent != up.Size {
						t.Errorf("it tells of %d bytes to the client and %d to the backend, want %d and %d", e.Client.Sent, e.Backend.Sent, down.Size, up.Size)
					}
				}
			})
		}
	}
}

// echoing starts an echo server behind the box and carries connections to it. It
// returns where to dial; one connection has been made before, so that the way is
// known.
func (b *between) echoing(t *testing.T, by tcpinfo.Carrier) netip.AddrPort {
	t.Helper()
	s, err := lab.Echo(limit(t), b.server, netip.AddrPortFrom(server4, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	at := netip.AddrPortFrom(wan4, 7)
	b.carry(t, at, netip.AddrPortFrom(server4, 7), by)
	c := b.dialled(t, at)
	sayTo(t, c, "first")
	hear(t, c, 5)
	_ = c.Close()
	b.owner.end(t, 1)
	return at
}

// dialled is a connection of the client's kernel.
func (b *between) dialled(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := b.client.Dial(limit(t), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, quiet{c})
	return c.(*net.TCPConn)
}

// brief is what the tests look at.
func brief(e *tcpinfo.Carried) string {
	return fmt.Sprintf("%s, first %s %s by rule %q, RST %v, rules %q %q, resets %v %v, lives\n%+v\n%+v", e.Carrier, e.First, e.FirstOf, e.FirstBy, e.ByRST,
		e.Client.Rule, e.Backend.Rule, e.Client.Reset, e.Backend.Reset, e.Client.Life, e.Backend.Life)
}

// live waits for a carried connection and returns how to find it.
func (b *between) live(t *testing.T) tcpinfo.CarriedRef {
	t.Helper()
	var ref tcpinfo.CarriedRef
	within(t, 5*time.Second, "a carried connection", func() (ok bool) {
		b.flows.Views("test", func(v *tcpinfo.CarriedView) {
			if !v.Connecting && v.Quiet {
				ref, ok = v.Ref, true
			}
		})
		return ok
	})
	return ref
}

// eachWay runs a test for both carriers, with an echo server.
func eachWay(t *testing.T, change func(*config.Policy), test func(t *testing.T, b *between, at netip.AddrPort)) {
	for _, by := range []tcpinfo.Carrier{tcpinfo.Splice, tcpinfo.Direct} {
		t.Run(string(by), func(t *testing.T) {
			b := newBetween(t, true, change)
			test(t, b, b.echoing(t, by))
		})
	}
}

func TestCarriedOverABadLineBytesAreTheSame(t *testing.T) {
	for _, by := range []tcpinfo.Carrier{tcpinfo.Splice, tcpinfo.Direct} {
		t.Run(string(by), func(t *testing.T) {
			b := newBetween(t, true, nil)
			bad := lab.Impairment{Loss: 0.02, Delay: 5 * time.Millisecond, Reorder: 0.02, Duplicate: 0.02, Corrupt: 0.01}
			up, down := lab.Blob{Size: 4 << 20, Seed: 1}, lab.Blob{Size: 4 << 20, Seed: 2}
			s, err := lab.BulkServer(limit(t), b.server, netip.AddrPortFrom(server4, 9000).String(), down, up)
			if err != nil {
				t.Fatal(err)
			}
			labtest.Close(t, s)
			at := netip.AddrPortFrom(wan4, 80)
			b.carry(t, at, netip.AddrPortFrom(server4, 9000), by)
			b.near.Set(bad)
			b.far.Set(bad)
			for n := 1; n <= 2; n++ {
				if _, err := lab.Bulk(limit(t), b.client, at.String(), up, down); err != nil {
					t.Fatalf("exchange %d: %v", n, err)
				}
				if e := b.owner.end(t, n); e.Client.Sent != down.Size || e.Backend.Sent != up.Size {
					t.Errorf("it tells of %d bytes to the client and %d to the backend, want %d and %d", e.Client.Sent, e.Backend.Sent, down.Size, up.Size)
				}
			}
		})
	}
}

func TestCarriedFINAndRSTPassAsTheyAre(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, b *between, at netip.AddrPort) {
		c := b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("behind our FIN the client read %q, %v, want the backend's FIN", rest, err)
		}
		e := b.owner.end(t, 2)
		if e.First != tcpinfo.Peer || e.FirstOf != tcpinfo.ClientLeg || e.ByRST || !e.Client.EOF || !e.Client.Life.FinAcked || !e.Backend.Life.FinAcked {
			t.Errorf("it ended as %s, want the client's FIN first and both acknowledged", brief(e))
		}
		if n := b.flows.Held(); n == 0 {
			t.Error("no leg is in TIME-WAIT, though the backend was finished first by us")
		}
		c = b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		if err := c.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if e := b.owner.end(t, 3); e.First != tcpinfo.Peer || e.FirstOf != tcpinfo.ClientLeg || !e.ByRST || !e.Backend.Reset {
			t.Errorf("it ended as %s, want a RST of the client's passed on", brief(e))
		}
	})
}

func TestCarriedEndsByOurWill(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, b *between, at netip.AddrPort) {
		c := b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		fin := tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Drained, Patience: time.Second, Grace: 5 * time.Second}
		if !b.flows.End(b.live(t), fin) {
			t.Fatal("the connection is not there")
		}
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("the client read %q, %v, want FIN", rest, err)
		}
		_ = c.Close()
		e := b.owner.end(t, 2)
		if e.First != tcpinfo.Us || e.FirstBy != tcpinfo.Drained || e.ByRST || e.Client.Reset || e.Backend.Reset || !e.Client.Life.FinAcked || !e.Backend.Life.FinAcked {
			t.Errorf("it ended as %s, want two FINs of ours, acknowledged", brief(e))
		}
		c = b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		if !b.flows.End(b.live(t), tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.Killed}) {
			t.Fatal("the connection is not there")
		}
		if _, err := io.ReadAll(c); err == nil {
			t.Error("the client read FIN, want RST")
		}
		if e := b.owner.end(t, 3); e.FirstBy != tcpinfo.Killed || !e.ByRST || !e.Client.Reset || !e.Backend.Reset {
			t.Errorf("it ended as %s, want two RSTs of ours", brief(e))
		}
	})
}

func TestCarriedPeerThatVanishesIsNoticed(t *testing.T) {
	quickly := func(p *config.Policy) {
		p.Keepalive = config.Keepalive{Idle: 300 * time.Millisecond, Interval: 100 * time.Millisecond, Probes: 3}
		p.UserTimeout = 600 * time.Millisecond
	}
	eachWay(t, quickly, func(t *testing.T, b *between, at netip.AddrPort) {
		c := b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		time.Sleep(time.Second) // probes are answered
		sayTo(t, c, "again")
		hear(t, c, 5)
		b.live(t) // the answer is acknowledged
		b.near.Cut()
		if e := b.owner.end(t, 2); e.FirstBy != tcpinfo.Keepalive || e.Client.Rule != tcpinfo.Keepalive || !e.Backend.Reset {
			t.Errorf("it ended as %s, want the client given up by keepalive", brief(e))
		}
		b.near.Mend()
		c = b.dialled(t, at)
		sayTo(t, c, "hello")
		hear(t, c, 5)
		b.far.Cut()
		sayTo(t, c, "who hears this?")
		if e := b.owner.end(t, 3); e.FirstBy != tcpinfo.UserTimeout || e.Backend.Rule != tcpinfo.UserTimeout || !e.Client.Reset {
			t.Errorf("it ended as %s, want the backend given up by user_timeout", brief(e))
		}
		b.far.Mend()
	})
}

func TestDirectTriesTheNextBackend(t *testing.T) {
	b := newBetween(t, true, nil)
	at := b.echoing(t, tcpinfo.Direct)
	closed := netip.AddrPortFrom(server4, 9)
	// The way to it is known as soon as somebody there has answered a SYN.
	s, err := lab.Echo(limit(t), b.server, closed.String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Dial(closed, "test")
	if err != nil {
		t.Fatal(err)
	}
	await(t, d, d.Established)
	d.Abort()
	s.Close()
	b.owner.have(closed, netip.AddrPortFrom(server4, 7))
	c := b.dialled(t, at)
	sayTo(t, c, "hello")
	hear(t, c, 5)
	_ = c.Close()
	e := b.owner.end(t, 2)
	if e.Carrier != tcpinfo.Direct || e.Retries != 1 || e.Backend.Remote.Port() != 7 {
		t.Errorf("it was carried by %s to %s after %d attempts that failed, want direct to port 7 after 1", e.Carrier, e.Backend.Remote, e.Retries)
	}
	b.owner.have(closed)
	if _, err := b.client.Dial(limit(t), "tcp", at.String()); err == nil {
		t.Error("a client was connected to no backend")
	}
	if e := b.owner.end(t, 3); e.Client.Rule != tcpinfo.Refused || !e.View.Connecting {
		t.Errorf("it ended as %s, want refused", brief(e))
	}
}

// One backend that starts anew is waited for, as by a relay.
func TestDirectWaitsForABackendThatStartsAnew(t *testing.T) {
	b := newBetween(t, true, nil)
	at := netip.AddrPortFrom(wan4, 7)
	s, err := lab.Echo(limit(t), b.server, netip.AddrPortFrom(server4, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	b.carry(t, at, netip.AddrPortFrom(server4, 7), tcpinfo.Direct)
	c := b.dialled(t, at)
	sayTo(t, c, "first")
	hear(t, c, 5)
	_ = c.Close()
	b.owner.end(t, 1)
	s.Close()
	came := make(chan net.Conn, 1)
	go func() {
		c, err := b.client.Dial(limit(t), "tcp", at.String())
		if err != nil {
			t.Error(err)
		}
		came <- c
	}()
	within(t, 5*time.Second, "a refusal", func() bool {
		b.owner.mu.Lock()
		defer b.owner.mu.Unlock()
		return len(b.owner.tried) > 0 && b.owner.tried[len(b.owner.tried)-1] != nil
	})
	if s, err = lab.Echo(limit(t), b.server, netip.AddrPortFrom(server4, 7).String()); err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	if c := <-came; c != nil {
		sayTo(t, c, "hello")
		hear(t, c, 5)
		_ = c.Close()
	}
}

// A backend that does not answer is forgotten, and whoever waits for it goes the
// ordinary way with its next SYN, which asks for the neighbour anew.
func TestDirectLeavesASilentBackendToTheStack(t *testing.T) {
	b := newBetween(t, true, nil)
	at := b.echoing(t, tcpinfo.Direct)
	b.far.Cut()
	came := make(chan error, 1)
	go func() {
		c, err := b.client.Dial(limit(t), "tcp", at.String())
		if err == nil {
			sayTo(t, c, "hello")
			hear(t, c, 5)
			err = c.Close()
		}
		came <- err
	}()
	within(t, 10*time.Second, "an attempt that fails", func() bool {
		b.owner.mu.Lock()
		defer b.owner.mu.Unlock()
		return len(b.owner.tried) > 0 && b.owner.tried[len(b.owner.tried)-1] != nil
	})
	b.far.Mend()
	if err := <-came; err != nil {
		t.Errorf("the client got %v, want its answer", err)
	}
	if e := b.owner.end(t, 2); e.Carrier != tcpinfo.Splice {
		t.Errorf("it was carried by %s, want splice", e.Carrier)
	}
}

func TestWhatComesBeforeTheSpliceIsNotLost(t *testing.T) {
	b := newBetween(t, true, nil)
	b.far.Set(lab.Impairment{Delay: 150 * time.Millisecond}) // the backend takes its time
	s, err := lab.Serve(limit(t), b.server, netip.AddrPortFrom(server4, 25).String(), func(c net.Conn) error {
		if _, err := io.WriteString(c, "220 ready"); err != nil {
			return err
		}
		all, err := io.ReadAll(c)
		if err == nil {
			_, err = c.Write(all)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	at := netip.AddrPortFrom(wan4, 25)
	b.carry(t, at, netip.AddrPortFrom(server4, 25), tcpinfo.Splice)
	c := b.dialled(t, at)
	sayTo(t, c, "HELO ")
	sayTo(t, c, "world")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "220 readyHELO world" {
		t.Errorf("the client read %q, %v", got, err)
	}
	if e := b.owner.end(t, 1); e.Carrier != tcpinfo.Splice || e.Client.Sent != 19 || e.Backend.Sent != 10 {
		t.Errorf("it ended as %s", brief(e))
	}
}

// A backend that sends without a pause is cut, and both peers get FIN in time.
func TestCarriedStreamIsCut(t *testing.T) {
	b := newBetween(t, false, nil)
	s, err := lab.Serve(limit(t), b.server, netip.AddrPortFrom(server4, 7).String(), streamUntilEOF)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	at := netip.AddrPortFrom(wan4, 7)
	b.carry(t, at, netip.AddrPortFrom(server4, 7), tcpinfo.Splice)
	c := b.dialled(t, at)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		_ = c.Close()
		done <- err
	}()
	var ref tcpinfo.CarriedRef
	within(t, 5*time.Second, "bytes that move", func() (ok bool) {
		b.flows.ListCarried("test", func(v *tcpinfo.Carried) { ref, ok = v.Ref, v.Client.Sent > 1<<20 })
		return ok
	})
	began := time.Now()
	b.flows.End(ref, tcpinfo.CarriedEnd{How: "turn", Why: tcpinfo.DrainDeadline, Patience: 200 * time.Millisecond, Grace: 4 * time.Second})
	if err := <-done; err != nil {
		t.Errorf("the client read %v, want FIN", err)
	}
	e := b.owner.end(t, 1)
	if took := time.Since(began); took > 4200*time.Millisecond {
		t.Errorf("that took %s, want patience and grace at most", took)
	}
	if e.Backend.Reset || e.Client.Reset {
		t.Errorf("it ended as %s, want FIN to both", brief(e))
	}
}

// streamUntilEOF sends until its client has finished.
func streamUntilEOF(c net.Conn) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, c) // what ends the reading ends the stream
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return err
			}
		}
	}
}
