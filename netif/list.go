package netif

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Card is one network link as List sees it.
type Card struct {
	Name         string   `json:"name"`
	Index        int      `json:"index"`
	MAC          string   `json:"mac"`
	MTU          int      `json:"mtu"`
	Up           bool     `json:"up"`   // administratively
	Oper         string   `json:"oper"` // RFC 2863 state: "up", "down", "unknown" ...
	Driver       string   `json:"driver"`
	Kind         string   `json:"kind"`      // "physical", "loopback", else the kernel's word: "veth", "vlan", "tap", "bridge" ...
	Addresses    []string `json:"addresses"` // the kernel's, with their prefix lengths
	DefaultRoute bool     `json:"default_route"`
	SSH          []string `json:"ssh,omitempty"` // far ends of the SSH sessions to one of the addresses
	Holder       *Holder  `json:"holder,omitempty"`
	Suitable     bool     `json:"suitable"`         // Claim would take it
	Reason       string   `json:"reason,omitempty"` // why not
}

// Holder is the process that has claimed a Card.
type Holder struct {
	PID   int  `json:"pid"`   // 0: not known, its state is in another directory
	Alive bool `json:"alive"` // false: it crashed, and the card waits for Release or Claim
}

// List returns every link of this network namespace in the kernel's order.
// stateDir is where to look for claims, "" is DefaultStateDir.
func List(stateDir string) ([]Card, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	routes, err := defaultRoutes()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	at, err := here()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	cards := make([]Card, 0, len(links))
	for _, l := range links {
		c, err := cardOf(l)
		if err != nil {
			return nil, fmt.Errorf("list network cards: %s: %w", l.Attrs().Name, err)
		}
		c.DefaultRoute = slices.ContainsFunc(routes, func(r []byte) bool { return routeUses(r, c.Index) })
		c.heldBy(cmp.Or(stateDir, DefaultStateDir), l, at)
		cards = append(cards, c)
	}
	return cards, nil
}

func cardOf(l netlink.Link) (Card, error) {
	a := l.Attrs()
	addresses, err := addressesOf(a.Index)
	if err != nil {
		return Card{}, fmt.Errorf("list addresses: %w", err)
	}
	c := Card{
		Name: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(), MTU: a.MTU,
		Up: a.RawFlags&unix.IFF_UP != 0, Oper: a.OperState.String(),
		Driver: driverOf(a.Name), Kind: kindOf(l), Addresses: texts(addresses),
		SSH: sshSessions(addresses), Reason: unsuitable(l),
	}
	c.Suitable = c.Reason == ""
	return c, nil
}

// heldBy fills in the claim, if there is one.
func (c *Card) heldBy(dir string, l netlink.Link, at place) {
	s, err := loadState(dir, c.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errDamaged):
		if why, _, err := elsewhere(c.Index, dir); err == nil && why != "" {
			c.Suitable, c.Reason, c.Holder = false, why, &Holder{Alive: true}
		}
	case err != nil:
		c.Suitable, c.Reason = false, err.Error()
	case s.stale(l.Attrs(), at) == "":
		c.Holder = &Holder{PID: s.Owner.PID, Alive: alive(s.Owner)}
		if c.Holder.Alive {
			c.Suitable, c.Reason = false, held(s, at).Error()
		}
	}
}

func kindOf(l netlink.Link) string {
	tun, ok := l.(*netlink.Tuntap)
	switch {
	case l.Attrs().RawFlags&unix.IFF_LOOPBACK != 0:
		return "loopback"
	case l.Type() == "device":
		return "physical"
	case ok && tun.Mode == netlink.TUNTAP_MODE_TAP:
		return "tap"
	case ok:
		return "tun"
	}
	return l.Type()
}

// defaultRoutes returns the routes to everywhere of every table.
func defaultRoutes() ([][]byte, error) {
	all, err := dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, make([]byte, rtHead))
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return slices.DeleteFunc(all, func(raw []byte) bool {
		return len(raw) < rtHead || !isIP(raw[0]) || !isDefault(message{Raw: raw}) ||
			binary.NativeEndian.Uint32(raw[8:])&unix.RTM_F_CLONED != 0
	}), nil
}
