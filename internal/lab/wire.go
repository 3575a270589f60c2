package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Wire connects two hosts by a veth pair and sets both ends up.
func Wire(a *Host, aIf string, b *Host, bIf string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aIf
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bIf, PeerNamespace: netlink.NsFd(int(b.ns.Fd()))}
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s of %s to %s of %s: %w", aIf, a.name, bIf, b.name, err)
	}
	if err := a.SetUp(aIf, true); err != nil {
		return err
	}
	return b.SetUp(bIf, true)
}
