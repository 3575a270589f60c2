package conformance

import (
	"net/netip"
	"testing"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
	"github.com/lastack/lastack/stack/stacktest"
)

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

var (
	box4  = netip.MustParseAddr("10.9.0.1")
	box6  = netip.MustParseAddr("fd09::1")
	peer4 = netip.MustParseAddr("10.9.0.77")
	peer6 = netip.MustParseAddr("fd09::77")
)

// box is the stack under test, with the filters that the appliance has, and
// the far end of its wire.
type box struct {
	*stack.Stack
	flows   *flow.Table
	card    *netif.Endpoint
	wire    *lab.Raw // the far end
	mac     lab.MAC
	peerMAC lab.MAC
}

// newBox makes a stack whose policy "test" is the default one, changed.
func newBox(t *testing.T, change func(*config.Policy)) *box {
	t.Helper()
	host, far := labtest.Host(t, "box"), labtest.Host(t, "peer")
	for _, h := range []*lab.Host{host, far} {
		labtest.Sysctl(t, h, "net.ipv6.conf.default.disable_ipv6", "1")
	}
	labtest.Wire(t, host, "eth0", far, "eth0")
	for _, h := range []*lab.Host{host, far} {
		// Segments as they are on a wire: cut, and with whole checksums.
		if err := h.Offload("eth0", false); err != nil {
			t.Fatal(err)
		}
	}
	test := config.DefaultPolicy()
	test.Name = "test"
	if change != nil {
		change(&test)
	}
	policies := map[string]config.Policy{"default": config.DefaultPolicy(), "test": test}
	b := &box{flows: flow.New(flow.Options{Policies: policies}), mac: macOf(t, host), peerMAC: macOf(t, far)}
	b.wire = labtest.Raw(t, far, "eth0")
	b.start(t, host, policies)
	return b
}

// start opens the card and makes the stack.
func (b *box) start(t *testing.T, host *lab.Host, policies map[string]config.Policy) {
	t.Helper()
	filter, flows, delay := b.filter()
	err := host.Do(func() (err error) {
		b.card, err = netif.Open("eth0", netif.EndpointOptions{Filter: filter})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delay.Start(b.card.Send)
	flows.Start(b.card.Send)
	flows.Own([6]byte(b.mac))
	labtest.Close(t, b.card)
	card := config.Interface{Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(box4, 24), netip.PrefixFrom(box6, 64)}}
	b.Stack, err = stack.New(limit(t), stack.Options{
		Config: &config.Config{Interfaces: []config.Interface{card}, Policies: policies},
		Links:  []stack.Link{{Interface: card, Endpoint: b.card.Port(0)}},
		Flows:  b.flows,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		flows.Start(nil)
		delay.Close()
		_ = b.card.Close() // labtest.Close reports it
		b.Stack.Close()
	})
}

// filter is what the card shows its frames to, as in the appliance.
func (b *box) filter() (stack.Filters, *flow.Card, *stack.AckDelay) {
	flows, delay := b.flows.Card(), stack.NewAckDelay()
	return stack.Filters{flows, delay}, flows, delay
}

func macOf(t *testing.T, h *lab.Host) lab.MAC {
	t.Helper()
	l, err := h.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return l.MAC
}
