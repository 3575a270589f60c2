package config

import (
	"fmt"
	"net/netip"
)

// hostProblem says why an address cannot belong to a host on a network, or "".
func hostProblem(a netip.Addr) string {
	switch {
	case a.Is4In6():
		return fmt.Sprintf("is an IPv4-mapped IPv6 address; write %s", a.Unmap())
	case a.Zone() != "":
		return fmt.Sprintf("has a zone; write %s, the interface is known", a.WithZone(""))
	case a.IsUnspecified():
		return "is the unspecified address"
	case a.IsLoopback():
		return "is a loopback address, which never leaves a host"
	case a.IsMulticast():
		return "is a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address"
	case a.Is4() && a.As4()[0] == 0:
		return "is in 0.0.0.0/8, which means this network"
	}
	return ""
}

// subnetProblem says why an address cannot belong to a host within a subnet
// that holds it, or "".
func subnetProblem(subnet netip.Prefix, a netip.Addr) string {
	if subnet.Bits() >= a.BitLen()-1 {
		return "" // RFC 3021, RFC 6164: both addresses of a pair are hosts
	}
	if a == subnet.Masked().Addr() {
		if a.Is6() {
			return fmt.Sprintf("is the network address of %s (any router, RFC 4291 2.6.1)", subnet.Masked())
		}
		return fmt.Sprintf("is the network address of %s", subnet.Masked())
	}
	if a.Is4() && a == lastAddr(subnet) {
		return fmt.Sprintf("is the broadcast address of %s", subnet.Masked())
	}
	return ""
}

// lastAddr is the highest address of an IPv4 subnet.
func lastAddr(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// family names the version of an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// linkLocal6 holds for fe80::/10, which is on every link.
func linkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// address decodes an IP address that a host may have.
func (v value) address(what string) (netip.Addr, bool) {
	text, ok := v.text(what + " as an IP address")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			v.failf("%s has a prefix length; write %s", quote(text), prefix.Addr())
			return netip.Addr{}, false
		}
		v.failf("%s is not an IP address", quote(text))
		return netip.Addr{}, false
	}
	if problem := hostProblem(a); problem != "" {
		v.failf("%s %s", a, problem)
		return netip.Addr{}, false
	}
	return a, true
}

// prefix decodes an address with its prefix length; example completes the
// message for an address that lacks it.
func (v value) prefix(what string, example func(netip.Addr) string) (netip.Prefix, bool) {
	text, ok := v.text(what)
	if !ok {
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(text)
	if err == nil {
		return prefix, true
	}
	if a, err := netip.ParseAddr(text); err == nil {
		v.failf("the prefix length is missing; write %s", example(a.WithZone("")))
	} else {
		v.failf("%s is not %s", quote(text), what)
	}
	return netip.Prefix{}, false
}
