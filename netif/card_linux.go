package netif

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkCapabilities says which capability is missing and how to get it.
func checkCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[0].Effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this process lacks %s: run it with sudo, or give the program the right once with "+
		`"sudo setcap cap_net_admin,cap_net_raw+ep PROGRAM", or try it in a namespace of its own with "unshare -Urn"`,
		strings.Join(missing, " and "))
}

// findCard looks a link up by name, and lists those there are if there is none.
func findCard(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err == nil {
		return link, nil
	}
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); !missing {
		return nil, fmt.Errorf("look it up: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	var names []string
	for _, l := range links {
		if unsuitable(l) == "" {
			names = append(names, l.Attrs().Name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("there is no such network card, nor any other that can be claimed")
	}
	slices.Sort(names)
	return nil, fmt.Errorf("there is no such network card; there are: %s", strings.Join(names, ", "))
}

// lookUp is findCard of a card that can be claimed.
func lookUp(name string) (netlink.Link, error) {
	link, err := findCard(name)
	if err != nil {
		return nil, err
	}
	if why := unsuitable(link); why != "" {
		return nil, errors.New(why)
	}
	return link, nil
}

// unsuitable says why a link cannot be claimed, "" if it can.
func unsuitable(link netlink.Link) string {
	a := link.Attrs()
	switch {
	case a.RawFlags&unix.IFF_LOOPBACK != 0:
		return "the loopback link is the kernel's own and leads to no network"
	case a.MasterIndex != 0:
		master := fmt.Sprintf("link %d", a.MasterIndex)
		if m, err := netlink.LinkByIndex(a.MasterIndex); err == nil {
			master = m.Type() + " " + m.Attrs().Name
		}
		return fmt.Sprintf("it is a member of the %s: claim that, or take it out first", master)
	case a.EncapType != "ether" || len(a.HardwareAddr) != 6:
		return "it carries no Ethernet frames"
	}
	return ""
}

// children are the links on top of a card, those in other namespaces excepted.
func children(index int) []netlink.Link {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		a := l.Attrs()
		// A veth pair names each other as parents and is nothing of the kind.
		return a.ParentIndex != index || a.NetNsID >= 0 || l.Type() == "veth"
	})
}

func hasVLANs(index int) bool {
	return slices.ContainsFunc(children(index), func(l netlink.Link) bool { return l.Type() == "vlan" })
}
