package lab

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vishvananda/netlink"
)

// Wire connects two hosts by a veth pair and sets both ends up. When it
// returns, frames pass.
func Wire(a *Host, aIf string, b *Host, bIf string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aIf
	attrs.Index = distinctIndex()
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bIf, PeerNamespace: netlink.NsFd(int(b.ns.Fd()))}
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s of %s to %s of %s: %w", aIf, a.name, bIf, b.name, err)
	}
	if err := a.SetUp(aIf, true); err != nil {
		return err
	}
	if err := b.SetUp(bIf, true); err != nil {
		return err
	}
	if err := a.waitUp(aIf); err != nil {
		return err
	}
	return b.waitUp(bIf)
}

// distinctIndex returns an interface index that the peer does not have. With
// equal ones, as two new namespaces would give, the kernel takes a veth for a
// device without a lower one, and lets its carrier wait for up to a second
// before IPv6 hears of it (linkwatch_urgent_event in net/core/link_watch.c).
func distinctIndex() int { return 1000 + rand.IntN(1<<24) }

// waitUp waits until the protocols know of the carrier. They learn it from a
// work queue, within milliseconds.
func (h *Host) waitUp(ifname string) error {
	for range 3000 {
		l, err := h.link(ifname)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("set up %s on %s: no carrier", ifname, h.name)
}
