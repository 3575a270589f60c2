package stack_test

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
	"github.com/lastack/lastack/stack/stacktest"
)

// What both ends' tests wait with.
var (
	limit      = stacktest.Limit
	await      = stacktest.Await
	accept     = stacktest.Accept
	read       = stacktest.Read
	ending     = stacktest.Ending
	write      = stacktest.Write
	closeWrite = stacktest.CloseWrite
	within     = stacktest.Within
	isState    = stacktest.IsState
)

// families are the addresses of the two ends in both versions of IP.
var families = []struct {
	name      string
	box, peer netip.Addr
}{
	{"ipv4", netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")},
	{"ipv6", netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")},
}

var (
	box4  = families[0].box
	box6  = families[1].box
	peer4 = families[0].peer
	peer6 = families[1].peer
)

// rig is a stack and, at the other end of a wire, a host with a kernel's.
type rig struct {
	box, peer *lab.Host
	line      *lab.ImpairedLink // nil with a plain wire
	card      *netif.Endpoint
	gate      *stack.Gate
	flows     *flow.Table
	clock     *stack.Clock
	*stack.Stack
}

// want is how a rig shall be; the zero value is usual.
type want struct {
	policies []config.Policy
	line     bool // one that can be cut
	link     func(*config.Interface)
	peer     func(*lab.Host) // before the stack starts
	log      *slog.Logger
}

// quick is a policy for tests: the default one, changed.
func quick(name string, change func(*config.Policy)) config.Policy {
	p := config.DefaultPolicy()
	p.Name = name
	if change != nil {
		change(&p)
	}
	return p
}

func policies(list ...config.Policy) map[string]config.Policy {
	m := map[string]config.Policy{"default": config.DefaultPolicy()}
	for _, p := range list {
		m[p.Name] = p
	}
	return m
}

func newRig(t *testing.T, w want) *rig {
	t.Helper()
	r := wired(t, w)
	if err := r.start(t, w); err != nil {
		t.Fatal(err)
	}
	return r
}

// start makes the stack of a wired rig.
func (r *rig) start(t *testing.T, w want) error {
	t.Helper()
	card := config.Interface{Name: "eth0", Addresses: prefixes(box4.String()+"/24", box6.String()+"/64")}
	if w.link != nil {
		w.link(&card)
	}
	s, err := stack.New(limit(t), stack.Options{
		Config: &config.Config{Interfaces: []config.Interface{card}, Policies: policies(w.policies...)},
		Links:  []stack.Link{{Interface: card, Endpoint: r.card.Port(0)}},
		Gate:   r.gate,
		Flows:  r.flows,
		Log:    w.log,
		Clock:  r.clock,
	})
	if err != nil {
		return err
	}
	r.Stack = s
	t.Cleanup(r.close)
	return nil
}

// wired is a rig without its stack.
func wired(t *testing.T, w want) *rig {
	t.Helper()
	r := &rig{box: labtest.Host(t, "box"), peer: labtest.Host(t, "peer"), gate: &stack.Gate{}, clock: stack.NewClock(0)}
	silent(t, r.box)
	if w.line {
		r.line = labtest.WireImpaired(t, r.box, "eth0", r.peer, "eth0", lab.Impairment{})
	} else {
		labtest.Wire(t, r.box, "eth0", r.peer, "eth0")
	}
	labtest.Addr(t, r.peer, "eth0", peer4.String()+"/24", peer6.String()+"/64")
	if w.peer != nil {
		w.peer(r.peer)
	}
	r.flows = flow.New(flow.Options{Policies: policies(w.policies...)})
	r.card = openCard(t, r.box, "eth0", r.gate, r.flows.Card())
	return r
}

// silent keeps the host's kernel off the cards it will get.
func silent(t *testing.T, h *lab.Host) {
	t.Helper()
	labtest.Sysctl(t, h, "net.ipv6.conf.default.disable_ipv6", "1")
}

func openCard(t *testing.T, h *lab.Host, name string, gate *stack.Gate, flows *flow.Card) *netif.Endpoint {
	t.Helper()
	var card *netif.Endpoint
	err := h.Do(func() (err error) {
		card, err = netif.Open(name, netif.EndpointOptions{Filter: stack.Filters{gate, flows}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, card)
	flows.Start(card.Send)
	return card
}

// close is the order of a shutdown: the card first, because gVisor resets what
// is left.
func (r *rig) close() {
	_ = r.card.Close() // labtest.Close reports it
	r.Stack.Close()
}

// listen is Listen that can't fail.
func (r *rig) listen(t *testing.T, addr netip.Addr, port uint16, policy string) *stack.Listener {
	t.Helper()
	l, err := r.Listen(netip.AddrPortFrom(addr, port), policy)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, l)
	return l
}

// accepted is a connection from the peer's kernel, both its ends.
func (r *rig) accepted(t *testing.T, l *stack.Listener) (*stack.Conn, *net.TCPConn) {
	t.Helper()
	client, err := r.peer.Dial(limit(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, quiet{client})
	return accept(t, l), client.(*net.TCPConn)
}

// quiet closes what may have been closed before.
type quiet struct{ net.Conn }

func (q quiet) Close() error {
	_ = q.Conn.Close()
	return nil
}

// dial waits for the handshake.
func (r *rig) dial(t *testing.T, to netip.AddrPort, policy string) (*stack.Conn, error) {
	t.Helper()
	c, err := r.Dial(to, policy)
	if err != nil {
		return nil, err
	}
	t.Cleanup(c.Abort)
	return c, await(t, c, c.Established)
}

// sayTo writes text on a kernel's connection.
func sayTo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// hear reads n bytes of a kernel's connection.
func hear(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	p := make([]byte, n)
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, p); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// journal is a log to look at.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) log() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) lines(with string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if strings.Contains(line, with) {
			n++
		}
	}
	return n
}
