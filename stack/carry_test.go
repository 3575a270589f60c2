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
	if len(o.backends) == 0 {
		return netip.AddrPort{}, false
	}
	return o.backends[int(o.turn.Add(1)-1)%len(o.backends)], true
}

func (o *owner) Tried(_ netip.AddrPort, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tried = append(o.tried, err)
}

func (o *owner) Ended(c *tcpinfo.Carried) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c == nil {
		o.back++
		return
	}
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
	b.owner.backends = append(b.owner.backends, backend)
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

var _ = io.EOF
var _ net.Conn
