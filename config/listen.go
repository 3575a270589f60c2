package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxListening bounds the listeners of all services together: each costs an
// endpoint, and a file of 1 MiB could ask for millions.
const maxListening = 1 << 14

const listenForms = `INTERFACE:PORT, IPv4:PORT or "[IPv6]:PORT"`

// listen decodes the places a service listens at.
func (d *serviceDraft) listen(v value, net *network) {
	items := v.itemsOrOne("places to listen at")
	if len(items) == 0 && v.isList() {
		v.failf("name at least one place to listen at: %s", listenForms)
	}
	for _, item := range items {
		text, ok := item.text(listenForms)
		if !ok {
			continue
		}
		host, port, problem := splitPort(text)
		if problem != "" {
			item.fail(problem, listenForms)
			continue
		}
		l := Listen{Port: port, Pos: item.pos()}
		if net.resolve(&l, host, item) && net.admit(l, item) {
			d.Listen = append(d.Listen, l)
			d.listenAt = append(d.listenAt, item)
		}
	}
}

// admit counts a listener and reports whether there may be one more.
func (n *network) admit(l Listen, v value) bool {
	had := n.listening
	n.listening += len(l.Addrs)
	if had <= maxListening && n.listening > maxListening {
		v.failf("from here on the services listen on more than %d addresses and ports", maxListening)
	}
	return n.listening <= maxListening
}

// splitPort takes host:port apart and says what is wrong with it.
func splitPort(text string) (host string, port uint16, problem string) {
	colon := strings.LastIndexByte(text, ':')
	bracket := strings.LastIndexByte(text, ']')
	if whole, err := netip.ParseAddr(text); err == nil && whole.Is6() {
		return "", 0, bracketHint(text)
	}
	if colon < 0 || colon < bracket {
		return "", 0, quote(text) + " names no port"
	}
	host = text[:colon]
	n, err := strconv.ParseUint(text[colon+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, "port " + quote(text[colon+1:]) + " is not a number from 1 to 65535"
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	switch {
	case bracketed != closed:
		return "", 0, quote(text) + " has a bracket too few"
	case bracketed && !strings.Contains(inner, ":"):
		return "", 0, "brackets are for IPv6 addresses; write " + inner + text[colon:]
	case !bracketed && strings.Contains(host, ":"):
		return "", 0, bracketHint(text)
	}
	return inner, uint16(n), ""
}

// bracketHint guesses where the address ends and its port begins.
func bracketHint(text string) string {
	address, port := text, "443"
	if colon := strings.LastIndexByte(text, ':'); colon > 0 {
		if _, err := netip.ParseAddr(text[:colon]); err == nil && digits(text[colon+1:]) {
			address, port = text[:colon], text[colon+1:]
		}
	}
	if _, err := netip.ParseAddr(address); err != nil {
		return quote(text) + " is not an address and a port"
	}
	return fmt.Sprintf("an IPv6 address needs brackets to tell its port; write \"[%s]:%s\"", address, port)
}

// resolve turns what was written before the port into our own addresses.
func (n *network) resolve(l *Listen, host string, v value) bool {
	a, err := netip.ParseAddr(host)
	switch {
	case slices.Contains(n.names(), host): // whatever it looks like
		return n.resolveInterface(l, host, v)
	case host == "" || host == "*" || err == nil && a.IsUnspecified():
		v.fail("there is no wildcard: name the interface or the address to listen on", n.places())
	case err == nil && (a.Is4In6() || a.Zone() != ""):
		v.failf("%s %s", a, hostProblem(a))
	case err == nil:
		return n.resolveAddr(l, a, v)
	case strings.Contains(host, ":") || strings.Trim(host, "0123456789.") == "":
		v.fail(quote(host)+" is not an IP address", n.places())
	default:
		return n.resolveInterface(l, host, v)
	}
	return false
}

func (n *network) resolveAddr(l *Listen, a netip.Addr, v value) bool {
	if _, own := n.own[a]; !own {
		if !n.broken {
			v.fail(a.String()+" is no address of an interface", n.places())
		}
		return false
	}
	l.Addr = a
	l.Addrs = []netip.AddrPort{netip.AddrPortFrom(a, l.Port)}
	return true
}

func (n *network) resolveInterface(l *Listen, name string, v value) bool {
	i := slices.IndexFunc(n.interfaces, func(iface Interface) bool { return iface.Name == name })
	if i < 0 {
		if len(n.interfaces) == 0 {
			return false // the section is missing, which was said
		}
		message := "no interface is called " + quote(name)
		if near := nearest(name, n.names()); near != "" {
			message += "; did you mean " + near + "?"
		}
		v.fail(message, list(n.names()))
		return false
	}
	l.Interface = name
	for _, prefix := range n.interfaces[i].Addresses {
		l.Addrs = append(l.Addrs, netip.AddrPortFrom(prefix.Addr(), l.Port))
	}
	return true
}

func (n *network) names() []string {
	names := make([]string, len(n.interfaces))
	for i := range n.interfaces {
		names[i] = n.interfaces[i].Name
	}
	return names
}

// places lists what a service can listen on.
func (n *network) places() string {
	const most = 8
	var places []string
	for _, iface := range n.interfaces {
		addrs := make([]string, 0, most)
		for _, prefix := range iface.Addresses[:min(most, len(iface.Addresses))] {
			addrs = append(addrs, prefix.Addr().String())
		}
		places = append(places, fmt.Sprintf("%s (%s)", iface.Name, strings.Join(addrs, ", ")))
	}
	return list(places)
}

// With is the service listening also on addresses that interfaces have besides
// those of the file, from DHCP or router advertisements; extra is by interface.
func (s Service) With(extra map[string][]netip.Addr) Service {
	s.Listen = slices.Clone(s.Listen)
	for i := range s.Listen {
		s.Listen[i].Addrs = s.Listen[i].with(extra[s.Listen[i].Interface])
	}
	return s
}

// with is where the place means with more addresses of its interface.
func (l Listen) with(extra []netip.Addr) []netip.AddrPort {
	all := slices.Clone(l.Addrs)
	for _, a := range extra {
		if addr := netip.AddrPortFrom(a, l.Port); !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}
