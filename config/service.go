package config

import (
	"net/netip"
	"slices"
	"time"
)

// serviceTypes are the values of type; proxyKeys the keys only a proxy takes.
var (
	serviceTypes = []string{"proxy", "echo", "discard", "daytime", "chargen", "health"}
	proxyKeys    = []string{"backends", "balance", "connect_timeout", "connect_retries", "idle_timeout", "forwarding"}
)

const (
	maxConns          = 1 << 24
	maxLedger         = 100000 // some 150 MB of records
	defaultLedger     = 1024
	maxConnectRetries = 255
)

// serviceDraft is a service with the places that later checks refer to.
type serviceDraft struct {
	Service
	found    map[string]value
	listenAt []value // as Service.Listen
	backends []value // as Service.Backends
}

// services decodes the section and judges each service by the network and by
// the others.
func (p *parser) services(v value, net *network, policies map[string]Policy) []Service {
	var drafts []serviceDraft
	before := len(p.errs)
	if v.present() {
		for _, entry := range v.entries("a mapping from service names to their settings") {
			drafts = append(drafts, p.service(entry, net))
		}
	}
	if len(drafts) == 0 && len(p.errs) == before {
		p.warn(v.namePos(), "services", "no service is configured: the cards are taken and nothing listens")
	}
	p.checkListeners(drafts)
	p.checkBackends(drafts, net)
	for _, d := range drafts {
		p.checkPolicy(d, policies)
	}
	services := make([]Service, len(drafts))
	for i := range drafts {
		services[i] = drafts[i].Service
	}
	return services
}

// service decodes one service by itself.
func (p *parser) service(v value, net *network) serviceDraft {
	d := serviceDraft{Service: Service{Name: v.name.Value, Policy: defaultName, Ledger: defaultLedger, IdleTimeout: Off, Pos: v.namePos()}}
	v.checkName("service")
	proxy := proxyDefaults()
	d.found = v.mapping(
		field{"type", func(v value) { v.oneOf(&d.Type, serviceTypes...) }},
		field{"listen", func(v value) { d.listen(v, net) }},
		field{"policy", func(v value) { d.policy(v) }},
		field{"max_conns", func(v value) { v.integer(&d.MaxConns, 0, maxConns) }},
		field{"ledger", func(v value) { v.ledger(&d.Ledger) }},
		field{"heartbeat", func(v value) { v.heartbeat(&d.Heartbeat) }},
		field{"backends", func(v value) { d.decodeBackends(v) }},
		field{"balance", func(v value) { v.oneOf(&proxy.Balance, "roundrobin") }},
		field{"connect_timeout", func(v value) { v.duration(&proxy.ConnectTimeout, shortest, day) }},
		field{"connect_retries", func(v value) { v.integer(&proxy.ConnectRetries, 0, maxConnectRetries) }},
		field{"idle_timeout", func(v value) { v.durationOrOff(&proxy.IdleTimeout) }},
		field{"forwarding", func(v value) { v.oneOf(&proxy.Forwarding, forwardings...) }},
	)
	d.checkKeys(v)
	if d.Type == "proxy" {
		d.Balance, d.ConnectTimeout, d.ConnectRetries = proxy.Balance, proxy.ConnectTimeout, proxy.ConnectRetries
		d.IdleTimeout, d.Forwarding = proxy.IdleTimeout, proxy.Forwarding
	}
	p.checkHeartbeat(&d)
	d.checkForwarding()
	return d
}

// proxyDefaults is what a proxy does when the file doesn't say.
func proxyDefaults() Service {
	return Service{Balance: "roundrobin", ConnectTimeout: 5 * time.Second, ConnectRetries: 3, IdleTimeout: Off, Forwarding: "auto"}
}

// checkKeys reports keys that the type needs and has not, and those it cannot
// use.
func (d *serviceDraft) checkKeys(v value) {
	if d.found == nil || !v.isMapping() {
		return
	}
	if _, ok := d.found["type"]; !ok {
		v.missing("type", "is missing; a service needs a type: "+list(serviceTypes))
	}
	if _, ok := d.found["listen"]; !ok {
		v.missing("listen", "is missing; a service needs a place to listen, as in wan0:443")
	}
	if _, ok := d.found["backends"]; !ok && d.Type == "proxy" {
		v.missing("backends", "is missing; a proxy needs at least one backend, as in [10.0.0.21:443]")
	}
	if d.Type == "" || d.Type == "proxy" {
		return
	}
	for _, key := range proxyKeys {
		if extra, ok := d.found[key]; ok {
			v.p.fail(extra.namePos(), extra.path, "only type proxy takes this key; "+d.Name+" is of type "+d.Type, "type, listen, policy, max_conns, ledger, heartbeat")
		}
	}
}

func (d *serviceDraft) policy(v value) {
	if name, ok := v.text("the name of a policy"); ok {
		d.Policy = name
	}
}

// checkPolicy reports a policy that is not there, and warns of what a service
// cannot have by itself.
func (p *parser) checkPolicy(d serviceDraft, policies map[string]Policy) {
	at := d.found["policy"]
	if !at.present() {
		at = value{p: p, path: d.Name}
	}
	policy, ok := policies[d.Policy]
	if !ok {
		names := make([]string, 0, len(policies))
		for name := range policies {
			names = append(names, name)
		}
		slices.Sort(names)
		message := "no policy is called " + quote(d.Policy)
		if near := nearest(d.Policy, names); near != "" {
			message += "; did you mean " + near + "?"
		}
		at.fail(message, list(names))
		return
	}
	if d.Type == "proxy" && !policy.Keepalive.Enabled() && d.IdleTimeout < 0 && !d.Heartbeat.Asks("client") {
		p.warn(d.Pos, join("services", d.Name), "policy "+policy.Name+" has no keepalive and the service no idle_timeout: a client that vanishes is never noticed")
	}
}

// ledger decodes how many ended connections are remembered.
func (v value) ledger(dst *int) {
	v.integer(dst, 0, maxLedger)
	if *dst == 0 {
		*dst = -1
	}
}

// checkListeners reports two listeners at one address and port.
func (p *parser) checkListeners(drafts []serviceDraft) {
	type owner struct {
		service string
		pos     Pos
	}
	taken := map[netip.AddrPort]owner{}
	places := map[string]owner{} // an interface may have no address yet
	for _, d := range drafts {
		for i, l := range d.Listen {
			if other, ok := places[l.String()]; ok && len(l.Addrs) == 0 {
				d.listenAt[i].failf("service %s listens on %s already, at line %d", other.service, l, other.pos.Line)
			}
			places[l.String()] = owner{d.Name, l.Pos}
			for _, addr := range l.Addrs {
				if other, ok := taken[addr]; ok {
					d.listenAt[i].failf("service %s listens on %s already, at line %d", other.service, addr, other.pos.Line)
					break
				}
				taken[addr] = owner{d.Name, l.Pos}
			}
		}
	}
}
