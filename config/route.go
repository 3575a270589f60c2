package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// gateway decodes the default gateways of an interface, one per family.
func (n *network) gateway(iface *Interface, v value) {
	for _, item := range v.itemsOrOne("gateways, at most one per address family") {
		a, ok := item.address("a gateway")
		if !ok || !n.nextHop(iface, a, item) {
			continue
		}
		if other, taken := n.gateways[family(a)]; taken {
			item.failf("%s has a default gateway already, on %s at line %d; further networks are reached through routes", family(a), other.iface, other.pos.Line)
			continue
		}
		n.gateways[family(a)] = spot{iface.Name, item.pos()}
		iface.Gateways = append(iface.Gateways, a)
	}
}

// nextHop reports whether packets can be handed to a through this interface.
func (n *network) nextHop(iface *Interface, a netip.Addr, v value) bool {
	if own, taken := n.own[a]; taken {
		v.failf("%s is our own address, on %s at line %d", a, own.iface, own.pos.Line)
		return false
	}
	for _, prefix := range iface.Addresses {
		if !prefix.Contains(a) {
			continue
		}
		if problem := subnetProblem(prefix, a); problem != "" {
			v.failf("%s %s", a, problem)
			return false
		}
		return true
	}
	if linkLocal6(a) && (iface.AcceptRA || slices.ContainsFunc(iface.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })) {
		return true
	}
	if iface.DHCP && a.Is4() && len(iface.Addresses) == 0 {
		v.failf("the subnet of %s comes from DHCP, and so do its gateway and routes; leave this out", iface.Name)
		return false
	}
	if len(iface.Addresses) > 0 || iface.DHCP || iface.AcceptRA { // otherwise its addresses were reported
		allowed := ""
		if len(iface.Addresses) > 0 {
			allowed = "an address in " + list(subnetNames(iface))
		}
		v.fail(fmt.Sprintf("%s is in no subnet of %s, so nothing can be sent to it", a, iface.Name), allowed)
	}
	return false
}

func subnetNames(iface *Interface) []string {
	names := make([]string, len(iface.Addresses))
	for i, prefix := range iface.Addresses {
		names[i] = prefix.Masked().String()
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (n *network) staticRoutes(iface *Interface, v value) {
	items := v.items("routes, as in [{to: 10.1.0.0/16, via: 10.0.0.254}]")
	if len(items) > maxRoutes {
		v.failf("has %d routes; at most %d are possible", len(items), maxRoutes)
		items = items[:maxRoutes]
	}
	for _, item := range items {
		n.route(iface, item)
	}
}

// route decodes one static route.
func (n *network) route(iface *Interface, v value) {
	var r Route
	before := len(v.p.errs)
	found := v.mapping(
		field{"to", func(v value) { n.destination(&r.To, v) }},
		field{"via", func(v value) { r.Via, _ = v.address("a next hop") }},
	)
	if len(v.p.errs) > before || !v.usable() {
		return
	}
	for _, key := range []string{"to", "via"} {
		if !found[key].present() {
			v.missing(key, "is missing; a route is written {to: 10.1.0.0/16, via: 10.0.0.254}")
			return
		}
	}
	to, via := found["to"], found["via"]
	if !to.usable() || !via.usable() {
		return
	}
	if r.To.Addr().Is4() != r.Via.Is4() {
		via.failf("%s is %s and %s is %s; a route stays within one family", r.To, family(r.To.Addr()), r.Via, family(r.Via))
		return
	}
	if n.nextHop(iface, r.Via, via) {
		n.routes[r.To] = spot{iface.Name, to.pos()}
		iface.Routes = append(iface.Routes, r)
	}
}

// destination decodes the network that a route leads to.
func (n *network) destination(dst *netip.Prefix, v value) {
	to, ok := v.prefix("a network with prefix length, as in 10.1.0.0/16", func(a netip.Addr) string {
		return fmt.Sprintf("%s/%d for this one host", a, a.BitLen())
	})
	if !ok {
		return
	}
	other, taken := n.routes[to]
	switch {
	case to.Addr().Is4In6():
		v.failf("%s is an IPv4-mapped IPv6 network; write it as IPv4", to)
	case to.Bits() == 0:
		v.failf("%s is the default route; set it as gateway", to)
	case to != to.Masked():
		v.failf("%s has bits behind its prefix; write %s", to, to.Masked())
	case hostProblem(to.Addr()) != "":
		v.failf("%s %s", to, hostProblem(to.Addr()))
	case taken:
		v.failf("a route to %s was given before, on %s at line %d", to, other.iface, other.pos.Line)
	case n.connected(to):
		v.failf("%s is directly connected and needs no route", to)
	default:
		*dst = to
	}
}

// connected reports whether an interface read so far is in this very subnet.
func (n *network) connected(to netip.Prefix) bool {
	return slices.ContainsFunc(n.subnets, func(s subnet) bool { return s.Prefix == to })
}

// unreachable says why nothing can be sent to a, or "".
func (n *network) unreachable(a netip.Addr) string {
	if n.broken {
		return "" // a mistake elsewhere may be the cause
	}
	for _, s := range n.subnets {
		if s.Contains(a) {
			return subnetProblem(s.Prefix, a)
		}
	}
	for to := range n.routes {
		if to.Contains(a) {
			return ""
		}
	}
	if _, ok := n.gateways[family(a)]; ok {
		return ""
	}
	if a.Is4() && slices.ContainsFunc(n.interfaces, func(i Interface) bool { return i.DHCP }) {
		return "" // the server may name a router
	}
	if a.Is6() && slices.ContainsFunc(n.interfaces, func(i Interface) bool { return i.AcceptRA }) {
		return "" // a router may announce itself
	}
	return "is in no connected subnet, and no route and no " + family(a) + " gateway leads to it"
}
