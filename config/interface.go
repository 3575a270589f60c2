package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// network is what the interfaces of a file add up to.
type network struct {
	interfaces []Interface
	own        map[netip.Addr]spot // every own address
	subnets    []subnet
	routes     map[netip.Prefix]spot
	gateways   map[string]spot // by family
	listening  int             // addresses with a port that services have asked for
	broken     bool            // some of it had errors: what is missing may have been meant
}

// spot is a place that a later error refers to.
type spot struct {
	iface string
	pos   Pos
}

// subnet is a directly connected one.
type subnet struct {
	netip.Prefix
	spot
}

const (
	maxInterfaces = 64 // bounds what is compared pairwise below
	maxAddresses  = 64 // per interface
	maxRoutes     = 1024
	minMTU        = 576  // RFC 791: every host takes a datagram of this size
	minMTU6       = 1280 // RFC 8200 section 5
	maxMTU        = 65535
	maxQueues     = 64
)

// interfaces decodes the section that must be there.
func (p *parser) interfaces(root, v value) network {
	n := network{own: map[netip.Addr]spot{}, routes: map[netip.Prefix]spot{}, gateways: map[string]spot{}}
	if !v.present() {
		root.missing("interfaces", "this section is missing; name at least one interface, as in lan0: {addresses: [10.0.0.1/24]}")
		n.broken = true
		return n
	}
	before := len(p.errs)
	entries := v.entries("a mapping from interface names to their settings")
	if len(entries) == 0 && len(p.errs) == before {
		v.failf("name at least one interface, as in lan0: {addresses: [10.0.0.1/24]}")
	}
	if len(entries) > maxInterfaces {
		v.failf("has %d interfaces; at most %d are possible", len(entries), maxInterfaces)
		entries = entries[:maxInterfaces]
	}
	for _, entry := range entries {
		n.interfaces = append(n.interfaces, n.iface(entry))
	}
	n.broken = len(p.errs) > before
	return n
}

// iface decodes one interface. Its addresses come first, since the gateway and
// the routes are judged by them.
func (n *network) iface(v value) Interface {
	iface := Interface{Name: v.name.Value, Pos: v.namePos()}
	if problem := nameProblem(iface.Name); problem != "" {
		v.p.fail(v.namePos(), v.path, "interface name "+quote(iface.Name)+" "+problem, "")
	}
	found := v.mapping(
		field{"addresses", func(v value) { n.addresses(&iface, v) }},
		field{"gateway", nil},
		field{"routes", nil},
		field{"mtu", nil},
		field{"queues", func(v value) { v.integer(&iface.Queues, 0, maxQueues) }},
		field{"accept_ra", func(v value) { v.boolean(&iface.AcceptRA) }},
		field{"dhcp", func(v value) { v.boolean(&iface.DHCP) }},
	)
	if _, ok := found["addresses"]; !ok && !iface.DHCP && !iface.AcceptRA && v.isMapping() && found["dhcp"].plain() {
		v.missing("addresses", "the interface has no addresses; give it at least one, as in addresses: [10.0.0.1/24], or dhcp: true")
	}
	if gateway := found["gateway"]; gateway.present() && gateway.usable() {
		n.gateway(&iface, gateway)
	}
	if routes := found["routes"]; routes.present() && routes.usable() {
		n.staticRoutes(&iface, routes)
	}
	if mtu := found["mtu"]; mtu.present() && mtu.usable() {
		mtu.integer(&iface.MTU, minMTU, maxMTU)
		if iface.MTU > 0 && iface.MTU < minMTU6 && slices.ContainsFunc(iface.Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }) {
			mtu.fail(fmt.Sprintf("%d is too small for IPv6, which %s has an address of (RFC 8200 section 5)", iface.MTU, iface.Name), fmt.Sprintf("%d to %d", minMTU6, maxMTU))
		}
	}
	return iface
}

// nameProblem says why the kernel takes no such name (dev_valid_name), or why
// it is not the name of a card, or "".
func nameProblem(name string) string {
	const longest = 15 // IFNAMSIZ with the final NUL
	_, err := netip.ParseAddr(name)
	switch {
	case len(name) > longest:
		return fmt.Sprintf("has %d bytes; the kernel takes at most %d", len(name), longest)
	case strings.ContainsAny(name, "/:%") || strings.ContainsFunc(name, unicode.IsSpace):
		return "must not contain a space or any of / : %"
	case strings.ContainsFunc(name, func(r rune) bool { return invisible(r) || r > unicode.MaxASCII }):
		return "must be plain ASCII"
	case name == "." || name == ".." || name == "all" || name == "default":
		return "is taken by the kernel for other things"
	case name == "lo":
		return "is the kernel's loopback, which is no card to take"
	case err == nil:
		return "is an IP address; name the card"
	}
	return ""
}

// plain reports whether a switch is off as it should be written, or left out:
// what else it says was reported.
func (v value) plain() bool {
	return !v.present() || v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!bool"
}

func (n *network) addresses(iface *Interface, v value) {
	items := v.items("addresses with prefix length, as in [10.0.0.1/24]")
	if v.isList() && len(items) == 0 {
		v.failf("give the interface at least one address, as in [10.0.0.1/24]")
	}
	if len(items) > maxAddresses {
		v.failf("has %d addresses; at most %d are possible", len(items), maxAddresses)
		items = items[:maxAddresses]
	}
	for _, item := range items {
		if prefix, ok := item.ownAddress(); ok && n.claim(iface.Name, prefix, item) {
			iface.Addresses = append(iface.Addresses, prefix)
		}
	}
}

// ownAddress decodes an address that an interface may have.
func (v value) ownAddress() (netip.Prefix, bool) {
	prefix, ok := v.prefix("an address with prefix length, as in 10.0.0.1/24", func(a netip.Addr) string {
		if a.Is4() {
			return a.String() + "/24"
		}
		return a.String() + "/64"
	})
	if !ok {
		return prefix, false
	}
	problem := hostProblem(prefix.Addr())
	if problem == "" && prefix.Bits() == 0 {
		problem = "with prefix length 0 would have every address on its own link"
	}
	if problem == "" {
		problem = subnetProblem(prefix, prefix.Addr())
	}
	if problem != "" {
		v.failf("%s %s", prefix.Addr(), problem)
	}
	return prefix, problem == ""
}

// claim notes an own address, unless another interface is in its way.
func (n *network) claim(iface string, prefix netip.Prefix, v value) bool {
	if other, taken := n.own[prefix.Addr()]; taken {
		v.failf("%s is an address of %s already, at line %d", prefix.Addr(), other.iface, other.pos.Line)
		return false
	}
	for _, other := range n.subnets {
		if other.iface != iface && other.Overlaps(prefix) && !linkLocal6(prefix.Addr()) {
			v.failf("subnet %s overlaps %s of %s at line %d; a packet could not tell which way to go", prefix.Masked(), other.Prefix, other.iface, other.pos.Line)
			return false
		}
	}
	if route, taken := n.routes[prefix.Masked()]; taken {
		v.failf("%s is directly connected here, but a route on %s at line %d leads to it elsewhere", prefix.Masked(), route.iface, route.pos.Line)
		return false
	}
	here := spot{iface, v.pos()}
	n.own[prefix.Addr()] = here
	n.subnets = append(n.subnets, subnet{prefix.Masked(), here})
	return true
}
