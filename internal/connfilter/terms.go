package connfilter

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// states are ss's names, and the groups it knows.
var states = map[string][]string{
	"syn-sent":    {"SYN-SENT"},
	"syn-recv":    {"SYN-RECEIVED"},
	"established": {"ESTABLISHED"},
	"fin-wait-1":  {"FIN-WAIT-1"},
	"fin-wait-2":  {"FIN-WAIT-2"},
	"close-wait":  {"CLOSE-WAIT"},
	"closing":     {"CLOSING"},
	"last-ack":    {"LAST-ACK"},
	"time-wait":   {"TIME-WAIT"},
	"closed":      {"CLOSED"},
	"all":         everyState,
	"connected":   everyState[:len(everyState)-1],
	"bucket":      {"SYN-RECEIVED", "TIME-WAIT"},
	"big": {"SYN-SENT", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING",
		"LAST-ACK"},
	"synchronized": {"ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"},
}

var everyState = []string{"SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT",
	"CLOSING", "LAST-ACK", "TIME-WAIT", "CLOSED"}

const stateNames = "established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, close-wait, closing, last-ack, time-wait, closed, all, connected, synchronized, bucket, big"

func (p *parser) state(exclude bool) (node, error) {
	p.at++
	name := strings.ToLower(p.next())
	if name == "syn-received" {
		name = "syn-recv"
	}
	set, ok := states[name]
	if !ok {
		return nil, p.wrong("no state has that name", stateNames)
	}
	p.at++
	in := side(func(s Side) bool { return slices.Contains(set, s.State) })
	if exclude {
		return func(c *Conn) bool { return !in(c) }, nil
	}
	return in, nil
}

// address is src, dst, client or backend with an address, a subnet, a port.
func (p *parser) address(word string) (node, error) {
	p.at++
	allowed := "ADDRESS, ADDRESS/BITS, ADDRESS:PORT or :PORT, as in 10.0.0.0/8 or [2001:db8::1]:443"
	if p.next() == "" {
		return nil, p.wrong("the address is missing", allowed)
	}
	match, ok := addresses(p.next())
	if !ok {
		return nil, p.wrong("no address", allowed)
	}
	p.at++
	switch word {
	case "src":
		return side(func(s Side) bool { return match(s.Local) }), nil
	case "dst":
		return side(func(s Side) bool { return match(s.Peer) }), nil
	case "client":
		return func(c *Conn) bool { return len(c.Sides) > 0 && match(c.Sides[0].Peer) }, nil
	}
	return func(c *Conn) bool { return len(c.Sides) > 1 && match(c.Sides[1].Peer) }, nil
}

// addresses reads what stands for one or many ends.
func addresses(text string) (match func(netip.AddrPort) bool, ok bool) {
	if port, found := strings.CutPrefix(text, ":"); found {
		n, err := strconv.ParseUint(port, 10, 16)
		return func(a netip.AddrPort) bool { return a.Port() == uint16(n) }, err == nil
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return func(b netip.AddrPort) bool { return a == b }, true
	}
	if n, err := netip.ParsePrefix(strings.Trim(text, "[]")); err == nil {
		return func(a netip.AddrPort) bool { return n.Contains(a.Addr()) }, true
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return func(b netip.AddrPort) bool { return a == b.Addr() }, err == nil
}

// comparisons are ss's signs and words.
var comparisons = map[string]func(a, b uint16) bool{
	"=": equal, "==": equal, "eq": equal,
	"!=": differs, "ne": differs, "neq": differs,
	">": greater, "gt": greater, "<": less, "lt": less,
	">=": atLeast, "ge": atLeast, "<=": atMost, "le": atMost,
}

func equal(a, b uint16) bool   { return a == b }
func differs(a, b uint16) bool { return a != b }
func greater(a, b uint16) bool { return a > b }
func less(a, b uint16) bool    { return a < b }
func atLeast(a, b uint16) bool { return a >= b }
func atMost(a, b uint16) bool  { return a <= b }

// port is sport or dport, a comparison, which may be left out, and a port.
func (p *parser) port(local bool) (node, error) {
	p.at++
	compare, ok := comparisons[p.next()]
	if ok {
		p.at++
	} else {
		compare = equal
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(p.next(), ":"), 10, 16)
	if err != nil {
		return nil, p.wrong("no port", "= != < > <= >= and a port, as in dport = :443")
	}
	p.at++
	return side(func(s Side) bool {
		if local {
			return compare(s.Local.Port(), uint16(n))
		}
		return compare(s.Peer.Port(), uint16(n))
	}), nil
}
