package netif

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// rig is a card that an Endpoint drives, and what is at the far end of its
// cable:
//
//	peer: the kernel's TCP -- eth0 ... eth0 -- card: Endpoint, Port, gVisor
//
// The peer has the addresses peer4 and peer6, the stack our4 and our6.
type rig struct {
	t          testing.TB
	peer, card *lab.Host
	e          *Endpoint
	port       *Port
	stack      *gstack.Stack
}

// cable connects eth0 of the two hosts. It returns the VLAN of the Port to use.
type cable func(t testing.TB, peer, card *lab.Host) (vlan uint16)

// newRig sets everything up: the cable, the card, the stack and its services.
func newRig(t testing.TB, connect cable, o EndpointOptions) *rig {
	t.Helper()
	r := &rig{t: t, peer: labtest.Host(t, "peer"), card: labtest.Host(t, "card")}
	vlan := connect(t, r.peer, r.card)
	r.furnishPeer()
	r.e = openOn(t, r.card, o)
	r.port = r.e.Port(vlan)
	r.stack = newStack(t, r.port, our4, our6)
	serve(t, r.stack)
	return r
}

// furnishPeer gives the peer's card its addresses.
func (r *rig) furnishPeer() {
	r.t.Helper()
	labtest.Addr(r.t, r.peer, "eth0", ip4(peer4)+"/24", ip6(peer6)+"/64")
}

// openOn opens eth0 of a host until the test ends.
func openOn(t testing.TB, h *lab.Host, o EndpointOptions) *Endpoint {
	t.Helper()
	var e *Endpoint
	err := h.Do(func() (err error) {
		e, err = Open("eth0", o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, e)
	return e
}

// claimOn claims eth0 of a host until the test ends.
func claimOn(t testing.TB, h *lab.Host) {
	t.Helper()
	var nic *NIC
	err := h.Do(func() (err error) {
		nic, err = Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Do(nic.Release); err != nil {
			t.Errorf("release: %v", err)
		}
	})
}

func ip4(a [4]byte) string  { return net.IP(a[:]).String() }
func ip6(a [16]byte) string { return net.IP(a[:]).String() }

// families are the two ways to reach the stack.
var families = []struct{ name, ours string }{
	{"IPv4", ip4(our4)},
	{"IPv6", ip6(our6)},
}

// limit ends what takes far too long.
func limit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, fmt.Errorf("nothing for 30 s"))
	t.Cleanup(cancel)
	return ctx
}

// until waits for something that happens at its own time.
func until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s until %s", what)
		}
	}
}

// exchange sends 8 MB (1 MB in a short run) each way at once between the peer's kernel and the stack.
func (r *rig) exchange(ours string) {
	r.t.Helper()
	if _, err := lab.Bulk(limit(r.t), r.peer, net.JoinHostPort(ours, bulkPort), toCard(), toPeer()); err != nil {
		r.t.Errorf("%v; card: %+v", err, r.e.Counters())
	}
}
