package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MAC is the hardware address of an interface.
type MAC = net.HardwareAddr

// Link is what the kernel says of an interface.
type Link struct {
	Index   int
	MTU     int
	MAC     MAC
	Up      bool
	Carrier bool
}

// Link returns the attributes of an interface.
func (h *Host) Link(ifname string) (Link, error) {
	l, err := h.link(ifname)
	if err != nil {
		return Link{}, err
	}
	a := l.Attrs()
	return Link{
		Index: a.Index, MTU: a.MTU, MAC: a.HardwareAddr,
		Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}, nil
}

func (h *Host) link(ifname string) (netlink.Link, error) {
	l, err := h.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("find %s on %s: %w", ifname, h.name, err)
	}
	return l, nil
}

// change applies f to an interface; what says what f does.
func (h *Host) change(ifname, what string, f func(netlink.Link) error) error {
	l, err := h.link(ifname)
	if err != nil {
		return err
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s of %s on %s: %w", what, ifname, h.name, err)
	}
	return nil
}

// AddAddr gives an interface an address, which is usable at once: no
// duplicate address detection.
func (h *Host) AddAddr(ifname string, p netip.Prefix) error {
	return h.change(ifname, "add address "+p.String(), func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if !p.Addr().Is6() {
			return h.nl.AddrAdd(l, a)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := h.nl.AddrAdd(l, a); err != nil || l.Attrs().OperState != netlink.OperUp {
			return err
		}
		return h.waitSolicited(ifname, p.Addr())
	})
}

// waitSolicited waits until the kernel listens for questions about an IPv6
// address: it joins their group from a work queue, milliseconds later, and who
// asks before that asks again only after a second. Should the kernel not join
// in half of that, the address still works.
func (h *Host) waitSolicited(ifname string, ip netip.Addr) error {
	// RFC 4291, 2.7.1: ff02::1:ff and the last 24 bits.
	b := ip.As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%x", b[13:])
	return h.Do(func() error {
		for range 500 {
			joined, err := os.ReadFile("/proc/thread-self/net/igmp6")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(joined)) {
				if f := strings.Fields(line); len(f) > 2 && f[1] == ifname && f[2] == group {
					return nil
				}
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
}

// RemoveAddr takes an address away.
func (h *Host) RemoveAddr(ifname string, p netip.Prefix) error {
	return h.change(ifname, "remove address "+p.String(), func(l netlink.Link) error {
		return h.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
	})
}

// AddRoute sends what goes to dst through the neighbour via.
func (h *Host) AddRoute(dst netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(dst.Masked()), Gw: via.AsSlice()}
	if err := h.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("add route %s via %s on %s: %w", dst, via, h.name, err)
	}
	return nil
}

// AddNeighbor writes the hardware address of ip down for good, so that nobody
// asks for it by ARP or neighbour discovery.
func (h *Host) AddNeighbor(ifname string, ip netip.Addr, mac MAC) error {
	return h.change(ifname, "add neighbour "+ip.String(), func(l netlink.Link) error {
		return h.nl.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: ip.AsSlice(), HardwareAddr: mac,
		})
	})
}

// SetUp sets an interface up or down.
func (h *Host) SetUp(ifname string, up bool) error {
	if up {
		return h.change(ifname, "set up", h.nl.LinkSetUp)
	}
	return h.change(ifname, "set down", h.nl.LinkSetDown)
}

// SetMTU sets the largest packet an interface sends.
func (h *Host) SetMTU(ifname string, mtu int) error {
	return h.change(ifname, "set the MTU", func(l netlink.Link) error { return h.nl.LinkSetMTU(l, mtu) })
}

// SetMAC sets the hardware address of an interface.
func (h *Host) SetMAC(ifname string, mac MAC) error {
	return h.change(ifname, "set the hardware address", func(l netlink.Link) error {
		return h.nl.LinkSetHardwareAddr(l, mac)
	})
}

// RemoveLink removes an interface, and the other end of its wire with it.
func (h *Host) RemoveLink(ifname string) error {
	return h.change(ifname, "remove", h.nl.LinkDel)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
