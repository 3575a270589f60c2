package connfilter_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/connfilter"
)

func side(state, local, peer string) connfilter.Side {
	return connfilter.Side{State: state, Local: netip.MustParseAddrPort(local), Peer: netip.MustParseAddrPort(peer)}
}

// proxied is a connection of a client in 10.1/16 to port 443, and to a backend.
var proxied = connfilter.Conn{
	Service: "web", Policy: "default", Carrier: "splice", Reason: "client_reset",
	Sides: []connfilter.Side{
		side("FIN-WAIT-2", "192.0.2.10:443", "10.1.2.3:40000"),
		side("CLOSE-WAIT", "10.2.0.1:20000", "[2001:db8::21]:8080"),
	},
}

func TestWordsSelect(t *testing.T) {
	for words, want := range map[string]bool{
		"":                                       true,
		"state fin-wait-2":                       true,
		"state FIN-WAIT-2":                       true,
		"state close-wait":                       true, // the other side
		"state established":                      false,
		"state synchronized":                     true,
		"state bucket":                           false,
		"exclude close-wait":                     false,
		"exclude time-wait":                      true,
		"dst 10.0.0.0/8":                         true,
		"src 10.0.0.0/8":                         true, // our end toward the backend
		"src 192.0.2.10:443":                     true,
		"dst 10.1.2.3":                           true,
		"dst 10.1.2.4":                           false,
		"dst [2001:db8::21]:8080":                true,
		"dst 2001:db8::/32":                      true,
		"dst :8080":                              true,
		"client 10.1.2.3":                        true,
		"client 2001:db8::21":                    false,
		"backend 2001:db8::21":                   true,
		"backend 10.1.2.3":                       false,
		"sport = :443":                           true,
		"sport 443":                              true,
		"dport = :443":                           false,
		"dport > 39999":                          true,
		"dport >= :40001":                        false,
		"sport != :443":                          true, // of the other side
		"service web":                            true,
		"service web policy strict":              false,
		"service web or policy strict":           true,
		"service x and service y or service web": true,
		"service web and ( service x or service y )": false,
		"( service web ) policy default":             true,
		"not service web":                            false,
		"! state established":                        true,
		"not ( service x or state all )":             false,
		"reason client_reset":                        true,
		"carrier splice":                             true,
		"carrier relay or carrier direct":            false,
	} {
		f, err := connfilter.Parse(strings.Fields(words))
		if err != nil {
			t.Errorf("%s: %v", words, err)
			continue
		}
		if got := f.Match(&proxied); got != want {
			t.Errorf("%s: got %v, want %v", words, got, want)
		}
	}
}

func TestABadFilterNamesThePlace(t *testing.T) {
	for words, want := range map[string]struct {
		place   int
		allowed string
	}{
		"state":                 {2, "time-wait"},
		"state timewait":        {2, "time-wait"},
		"service web colour":    {3, "service"},
		"service":               {2, "the name of a service"},
		"carrier":               {2, "relay, splice, direct"},
		"carrier pigeon":        {2, "relay, splice, direct"},
		"dst 10.0.0.300":        {2, "10.0.0.0/8"},
		"dst":                   {2, "10.0.0.0/8"},
		"dport = :70000":        {3, "dport = :443"},
		"( service web":         {4, ")"},
		"service web )":         {3, "service"},
		"service web and":       {4, "service"},
		"or service web":        {1, "service"},
		"not":                   {2, "service"},
		"(service web)and(not)": {8, "service"},
	} {
		_, err := connfilter.Parse([]string{words})
		var wrong *connfilter.Error
		if !errors.As(err, &wrong) {
			t.Errorf("%s: taken", words)
			continue
		}
		if wrong.Place != want.place || !strings.Contains(wrong.Allowed, want.allowed) {
			t.Errorf("%s: word %d is wrong, allowed %s; want word %d and %q", words, wrong.Place, wrong.Allowed, want.place, want.allowed)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("( service web or not dst [::1]:80 ) and sport >= 3")
	f.Add(strings.Repeat("(", 200))
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := connfilter.Parse([]string{text})
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		if err == nil {
			filter.Match(&proxied)
		}
	})
}
