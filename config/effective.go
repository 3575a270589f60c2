package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v4"
)

// Effective renders the whole configuration with every default filled in, as
// a file that Parse takes and that means the same.
func (c *Config) Effective() ([]byte, error) {
	pairs := []pair{
		{"interfaces", c.interfacesNode()},
		{"policies", c.policiesNode()},
		{"services", c.servicesNode()},
		{"drain", c.Drain.node()},
		{"admin", c.Admin.node()},
		{"state", c.State.node()},
		{"carried", flow(pair{"max", number(c.Carried.Max)}, pair{"full", word(c.Carried.Full)})},
	}
	if c.Time.Asked {
		pairs = append(pairs, pair{"time", c.Time.node()})
	}
	text, err := yaml.Dump(block(pairs...))
	if err != nil {
		return nil, fmt.Errorf("render the configuration: %w", err)
	}
	return text, nil
}

// Effective renders one policy with every default filled in, as it stands
// under policies.
func (p Policy) Effective() (string, error) {
	text, err := yaml.Dump(block(pair{p.Name, p.node()}))
	if err != nil {
		return "", fmt.Errorf("render policy %s: %w", p.Name, err)
	}
	return string(text), nil
}

// pair is one key of a rendered mapping.
type pair struct {
	key   string
	value *yaml.Node
}

// block is a mapping with one key a line, flow one on a single line.
func block(pairs ...pair) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range pairs {
		n.Content = append(n.Content, word(p.key), p.value)
	}
	if len(pairs) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func flow(pairs ...pair) *yaml.Node {
	n := block(pairs...)
	n.Style = yaml.FlowStyle
	return n
}

func sequence(style yaml.Style, items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Style: style, Content: items}
}

func word(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func number(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)}
}

func truth(b bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(b)}
}

// span is a duration, or off.
func span(d time.Duration) *yaml.Node { return word(formatDuration(d)) }

// words renders values that print as the file takes them.
func words[T fmt.Stringer](items []T) []*yaml.Node {
	nodes := make([]*yaml.Node, len(items))
	for i, item := range items {
		nodes[i] = word(item.String())
	}
	return nodes
}

func (c *Config) interfacesNode() *yaml.Node {
	pairs := make([]pair, len(c.Interfaces))
	for i, iface := range c.Interfaces {
		pairs[i] = pair{iface.Name, iface.node()}
	}
	return block(pairs...)
}

func (i Interface) node() *yaml.Node {
	var pairs []pair
	if len(i.Addresses) > 0 {
		pairs = append(pairs, pair{"addresses", sequence(yaml.FlowStyle, words(i.Addresses)...)})
	}
	if i.DHCP {
		pairs = append(pairs, pair{"dhcp", truth(true)})
	}
	if len(i.Gateways) > 0 {
		pairs = append(pairs, pair{"gateway", sequence(yaml.FlowStyle, words(i.Gateways)...)})
	}
	if len(i.Routes) > 0 {
		routes := make([]*yaml.Node, len(i.Routes))
		for n, r := range i.Routes {
			routes[n] = flow(pair{"to", word(r.To.String())}, pair{"via", word(r.Via.String())})
		}
		pairs = append(pairs, pair{"routes", sequence(0, routes...)})
	}
	if i.MTU > 0 { // left out, the card keeps its own
		pairs = append(pairs, pair{"mtu", number(i.MTU)})
	}
	return block(append(pairs, pair{"queues", number(i.Queues)}, pair{"accept_ra", truth(i.AcceptRA)})...)
}

// policiesNode puts "default" first and the others as in the file; built-in
// policies have no place there.
func (c *Config) policiesNode() *yaml.Node {
	policies := make([]Policy, 0, len(c.Policies))
	for _, p := range c.Policies {
		policies = append(policies, p)
	}
	slices.SortFunc(policies, func(a, b Policy) int {
		if (a.Name == defaultName) != (b.Name == defaultName) {
			return boolOrder(a.Name == defaultName)
		}
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column), cmp.Compare(a.Name, b.Name))
	})
	pairs := make([]pair, len(policies))
	for i, p := range policies {
		pairs[i] = pair{p.Name, p.node()}
	}
	return block(pairs...)
}

func boolOrder(first bool) int {
	if first {
		return -1
	}
	return 1
}

func (p Policy) node() *yaml.Node {
	return block(
		pair{"keepalive", p.Keepalive.node()},
		pair{"retransmit", p.Retransmit.node()},
		pair{"user_timeout", span(p.UserTimeout)},
		pair{"half_close", span(p.HalfClose)},
		pair{"fin_wait2", span(p.FinWait2)},
		pair{"time_wait", p.TimeWait.node()},
		pair{"fin_wait1", span(p.FinWait1)},
		pair{"closing", span(p.Closing)},
		pair{"last_ack", span(p.LastAck)},
		pair{"close_wait", span(p.CloseWait)},
		pair{"zero_window", span(p.ZeroWindow)},
		pair{"linger", p.lingerNode()},
		pair{"dscp", number(p.DSCP)},
		pair{"ttl", number(cmp.Or(p.TTL, 64))},
		pair{"congestion", word(p.Congestion)},
	)
}

func (p Policy) lingerNode() *yaml.Node {
	if p.AbortiveClose {
		return span(0)
	}
	return span(p.Linger)
}

func (k Keepalive) node() *yaml.Node {
	if !k.Enabled() {
		return span(Off)
	}
	return flow(pair{"idle", span(k.Idle)}, pair{"interval", span(k.Interval)}, pair{"probes", number(k.Probes)})
}

func (r Retransmit) node() *yaml.Node {
	return flow(
		pair{"min_rto", span(r.MinRTO)},
		pair{"max_rto", span(r.MaxRTO)},
		pair{"max_retries", number(r.MaxRetries)},
		pair{"syn_retries", number(r.SynRetries)},
		pair{"loss_detection", word(r.LossDetection)},
	)
}

func (t TimeWait) node() *yaml.Node {
	pairs := []pair{{"duration", span(max(t.Duration, 0))}, {"reuse", word(t.Reuse)}, {"max", number(t.Max)}}
	if t.Duration < 0 {
		pairs = append(pairs, pair{"accept_stray_segments", truth(true)})
	}
	return flow(pairs...)
}

func (c *Config) servicesNode() *yaml.Node {
	pairs := make([]pair, len(c.Services))
	for i, s := range c.Services {
		pairs[i] = pair{s.Name, s.node()}
	}
	return block(pairs...)
}

func (s Service) node() *yaml.Node {
	pairs := []pair{
		{"type", word(s.Type)},
		{"listen", sequence(yaml.FlowStyle, words(s.Listen)...)},
		{"policy", word(s.Policy)},
		{"max_conns", number(s.MaxConns)},
		{"ledger", number(max(s.Ledger, 0))},
	}
	if s.Heartbeat.Enabled() {
		pairs = append(pairs, pair{"heartbeat", s.Heartbeat.node()})
	}
	if s.Type == "proxy" {
		pairs = append(pairs,
			pair{"backends", sequence(yaml.FlowStyle, words(s.Backends)...)},
			pair{"balance", word(s.Balance)},
			pair{"connect_timeout", span(s.ConnectTimeout)},
			pair{"connect_retries", number(s.ConnectRetries)},
			pair{"idle_timeout", span(s.IdleTimeout)},
			pair{"forwarding", word(s.Forwarding)},
		)
	}
	return block(pairs...)
}

// String is the place as the file takes it.
func (l Listen) String() string {
	if l.Interface != "" {
		return l.Interface + ":" + strconv.Itoa(int(l.Port))
	}
	return netip.AddrPortFrom(l.Addr, l.Port).String()
}

func (d Drain) node() *yaml.Node {
	pairs := []pair{
		{"announce", span(d.Announce)},
		{"deadline", span(d.Deadline)},
		{"fin_grace", span(d.FinGrace)},
		{"linger_read", span(d.LingerRead)},
		{"min", span(d.Min)},
		{"max", span(d.Max)},
		{"spread", span(d.Spread)},
		{"refuse", word(d.Refuse)},
	}
	if len(d.Profiles) > 0 {
		var profiles []pair
		for _, cause := range DrainCauses {
			if p, ok := d.Profiles[cause]; ok {
				profiles = append(profiles, pair{cause, p.node()})
			}
		}
		pairs = append(pairs, pair{"profiles", flow(profiles...)})
	}
	return flow(pairs...)
}

func (a Admin) node() *yaml.Node {
	if a.Socket == "" {
		return span(Off)
	}
	pairs := []pair{{"socket", word(a.Socket)}}
	if len(a.SSH.Listen) > 0 {
		pairs = append(pairs, pair{"ssh", a.SSH.node()})
	}
	if a.Console.PasswordHash != "" {
		pairs = append(pairs, pair{"console", flow(pair{"password_hash", word(a.Console.PasswordHash)})})
	}
	if len(pairs) == 1 {
		return flow(pairs...)
	}
	return block(pairs...)
}

func (s SSH) node() *yaml.Node {
	pairs := []pair{{"listen", sequence(yaml.FlowStyle, words(s.Listen)...)}}
	if len(s.AuthorizedKeys) > 0 {
		keys := make([]*yaml.Node, len(s.AuthorizedKeys))
		for i, k := range s.AuthorizedKeys {
			keys[i] = word(k)
		}
		pairs = append(pairs, pair{"authorized_keys", sequence(0, keys...)})
	}
	for _, p := range []struct{ key, path string }{{"authorized_keys_file", s.AuthorizedKeysFile}, {"host_key", s.HostKey}} {
		if p.path != "" {
			pairs = append(pairs, pair{p.key, word(p.path)})
		}
	}
	return block(pairs...)
}

func (s State) node() *yaml.Node {
	journal := "off"
	if s.Journal {
		journal = "on"
	}
	return flow(pair{"journal", word(journal)}, pair{"journal_interval", span(s.JournalInterval)})
}
