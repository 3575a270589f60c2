package config

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v4"
)

const (
	maxTimeServers = 4
	portNTP        = 123
)

func (p *parser) time(v value) Time {
	if !v.present() || v.off() {
		return Time{}
	}
	t := Time{Asked: true}
	v.mapping(
		field{"servers", func(v value) { t.servers(v) }},
		field{"set", func(v value) { v.onOff(&t.Set) }},
	)
	return t
}

// servers decodes addresses, with or without a port.
func (t *Time) servers(v value) {
	items := v.itemsOrOne("addresses of NTP servers, as in [192.0.2.123]")
	if len(items) > maxTimeServers {
		v.failf("has %d servers; at most %d are asked", len(items), maxTimeServers)
		return
	}
	for _, item := range items {
		text, ok := item.text("the IP address of an NTP server")
		if !ok {
			continue
		}
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			a, bare := netip.ParseAddr(text)
			if at, err = netip.AddrPortFrom(a, portNTP), bare; err != nil {
				item.failf("%s is no IP address; names are not resolved in this version", quote(text))
				continue
			}
		}
		switch problem := hostProblem(at.Addr()); {
		case problem != "":
			item.failf("%s %s", at.Addr(), problem)
		case at.Port() == 0:
			item.fail("port 0 is none to send to", fmt.Sprintf("1 to 65535; %d without one", portNTP))
		default:
			t.Servers = append(t.Servers, at)
		}
	}
}

func (t Time) node() *yaml.Node {
	set := "off"
	if t.Set {
		set = "on"
	}
	var pairs []pair
	if len(t.Servers) > 0 {
		pairs = append(pairs, pair{"servers", sequence(yaml.FlowStyle, words(t.Servers)...)})
	}
	return flow(append(pairs, pair{"set", word(set)})...)
}
