package config

import (
	"net/netip"
	"strings"
)

const backendForms = `IPv4:PORT or "[IPv6]:PORT"`

// decodeBackends decodes the servers of a proxy.
func (d *serviceDraft) decodeBackends(v value) {
	items := v.items("backends, as in [10.0.0.21:443]")
	if len(items) == 0 && v.isList() {
		v.failf("name at least one backend, as in [10.0.0.21:443]")
	}
	first := map[netip.AddrPort]Pos{}
	for _, item := range items {
		addr, ok := item.backend()
		if !ok {
			continue
		}
		if pos, twice := first[addr]; twice {
			item.failf("%s is listed twice, first at line %d column %d", addr, pos.Line, pos.Column)
			continue
		}
		first[addr] = item.pos()
		d.Backends = append(d.Backends, addr)
		d.backends = append(d.backends, item)
	}
}

// backend decodes the address and port of one server.
func (v value) backend() (netip.AddrPort, bool) {
	text, ok := v.text(backendForms)
	if !ok {
		return netip.AddrPort{}, false
	}
	host, port, problem := splitPort(text)
	if problem != "" {
		v.fail(problem, backendForms)
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil && host != "" && strings.Trim(host, "0123456789.:") != "" && !strings.Contains(host, ":"):
		v.fail(quote(host)+" is a host name; this version resolves no names, write the server's address", backendForms)
	case err != nil:
		v.fail(quote(host)+" is not an IP address", backendForms)
	case hostProblem(a) != "":
		v.failf("%s %s", a, hostProblem(a))
	case linkLocal6(a):
		v.failf("%s is a link-local address, which exists on every link; give the server a routable one", a)
	default:
		return netip.AddrPortFrom(a, port), true
	}
	return netip.AddrPort{}, false
}

// checkBackends reports backends that are ourselves or out of reach.
func (p *parser) checkBackends(drafts []serviceDraft, net *network) {
	listening := map[netip.AddrPort]string{}
	for _, d := range drafts {
		for _, l := range d.Listen {
			for _, addr := range l.Addrs {
				listening[addr] = d.Name
			}
		}
	}
	for _, d := range drafts {
		for i, addr := range d.Backends {
			own, isOwn := net.own[addr.Addr()]
			if service, loop := listening[addr]; loop {
				d.backends[i].failf("%s is where our own service %s listens: connections would run in a loop", addr, service)
			} else if isOwn {
				d.backends[i].failf("%s is an address of our own, on %s: the servers are other hosts", addr.Addr(), own.iface)
			} else if problem := net.unreachable(addr.Addr()); problem != "" {
				d.backends[i].failf("%s %s", addr.Addr(), problem)
			}
		}
	}
}
