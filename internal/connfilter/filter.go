package connfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Side is one TCP connection: of a client with us, or ours with a backend.
type Side struct {
	State string // RFC 9293 state, as in "FIN-WAIT-2"
	Local netip.AddrPort
	Peer  netip.AddrPort
}

// Conn is what a Filter looks at.
type Conn struct {
	Sides   []Side
	Service string
	Policy  string
	Carrier string // "relay", "splice" or "direct"; "" of what is not proxied
	Reason  string // why it ended; "" while it lives
}

// Filter says which connections are wanted. The zero Filter wants all.
type Filter struct{ node node }

// node is a part of an expression.
type node func(*Conn) bool

// Match reports whether the connection is wanted.
func (f Filter) Match(c *Conn) bool { return f.node == nil || f.node(c) }

// Error is a word that can't stand where it does.
type Error struct {
	Word    string // "" at the end
	Place   int    // counted from 1
	Problem string
	Allowed string
}

// Error names the place and what may stand there.
func (e *Error) Error() string {
	at := fmt.Sprintf("filter, word %d (%q)", e.Place, e.Word)
	if e.Word == "" {
		at = fmt.Sprintf("filter, after word %d", e.Place-1)
	}
	return at + ": " + e.Problem + "\nallowed: " + e.Allowed
}

const terms = "state, exclude, src, dst, sport, dport, service, policy, carrier, reason, client, backend, not, ( )"

// Parse reads an expression: words, one after the other. Two expressions next
// to each other must both hold; "or" binds less than "and".
func Parse(words []string) (Filter, error) {
	p := parser{words: split(words)}
	if len(p.words) == 0 {
		return Filter{}, nil
	}
	n, err := p.either()
	if err != nil {
		return Filter{}, err
	}
	if p.at < len(p.words) {
		return Filter{}, p.wrong("a parenthesis that was never opened", terms)
	}
	return Filter{n}, nil
}

// split makes parentheses words of their own, so that "(state all)" from one
// quoted argument is understood too.
func split(words []string) []string {
	all := strings.NewReplacer("(", " ( ", ")", " ) ").Replace(strings.Join(words, " "))
	return strings.Fields(all)
}

type parser struct {
	words []string
	at    int
	depth int
}

// deepest bounds parentheses: a filter is typed by hand.
const deepest = 100

func (p *parser) next() string {
	if p.at >= len(p.words) {
		return ""
	}
	return p.words[p.at]
}

func (p *parser) take() string {
	w := p.next()
	p.at++
	return w
}

func (p *parser) wrong(problem, allowed string) error {
	return &Error{p.next(), p.at + 1, problem, allowed}
}

func (p *parser) either() (node, error) {
	left, err := p.both()
	for err == nil && (p.next() == "or" || p.next() == "||") {
		p.at++
		a := left
		var b node
		b, err = p.both()
		left = func(c *Conn) bool { return a(c) || b(c) }
	}
	return left, err
}

func (p *parser) both() (node, error) {
	left, err := p.one()
	for err == nil {
		switch p.next() {
		case "", ")", "or", "||":
			return left, nil
		case "and", "&&":
			p.at++
		}
		a := left
		var b node
		b, err = p.one()
		left = func(c *Conn) bool { return a(c) && b(c) }
	}
	return left, err
}

func (p *parser) one() (node, error) {
	switch word := p.next(); word {
	case "not", "!":
		p.at++
		n, err := p.one()
		return func(c *Conn) bool { return !n(c) }, err
	case "(":
		return p.group()
	default:
		return p.term(word)
	}
}

func (p *parser) group() (node, error) {
	if p.depth++; p.depth > deepest {
		return nil, p.wrong("too many parentheses", terms)
	}
	p.at++
	n, err := p.either()
	if err != nil {
		return nil, err
	}
	if p.next() != ")" {
		return nil, p.wrong("a parenthesis is not closed", ")")
	}
	p.at++
	p.depth--
	return n, nil
}

func (p *parser) term(word string) (node, error) {
	switch word {
	case "state", "exclude":
		return p.state(word == "exclude")
	case "src", "dst", "client", "backend":
		return p.address(word)
	case "sport", "dport":
		return p.port(word == "sport")
	case "service", "policy", "reason":
		return p.name(word)
	case "carrier":
		return p.carrier()
	case "":
		return nil, p.wrong("something is missing", terms)
	}
	return nil, p.wrong("no word that a filter knows", terms)
}

func (p *parser) name(word string) (node, error) {
	p.at++
	if p.next() == "" {
		return nil, p.wrong("the name is missing", "the name of a "+word)
	}
	want := p.take()
	return func(c *Conn) bool {
		switch word {
		case "service":
			return c.Service == want
		case "policy":
			return c.Policy == want
		}
		return c.Reason == want
	}, nil
}

// carriers are what may stand after carrier.
var carriers = []string{"relay", "splice", "direct"}

func (p *parser) carrier() (node, error) {
	p.at++
	if !slices.Contains(carriers, p.next()) {
		return nil, p.wrong("nothing carries connections by that name", strings.Join(carriers, ", "))
	}
	want := p.take()
	return func(c *Conn) bool { return c.Carrier == want }, nil
}

// side holds if it holds for either side.
func side(f func(Side) bool) node {
	return func(c *Conn) bool { return slices.ContainsFunc(c.Sides, f) }
}
