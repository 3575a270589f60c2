package config_test

import (
	"testing"

	"github.com/lastack/lastack/config"
)

func TestWhatCarriesTheConnectionsOfAProxy(t *testing.T) {
	beat := config.Heartbeat{Side: "backend", Send: "?", Expect: "!"}
	auto := map[string]string{"relay": "forwarding: auto means relay", "splice": "forwarding: auto means splice", "direct": ""}[config.AutoMeans]
	autoBeat := "heartbeat"
	if config.AutoMeans == "relay" {
		autoBeat = auto
	}
	for _, c := range []struct {
		s       config.Service
		by, why string
	}{
		{config.Service{Forwarding: "relay"}, "relay", "forwarding: relay"},
		{config.Service{Forwarding: "splice"}, "splice", "forwarding: splice"},
		{config.Service{Forwarding: "direct"}, "direct", ""},
		{config.Service{Forwarding: "auto"}, config.AutoMeans, auto},
		{config.Service{Forwarding: "auto", Heartbeat: beat}, "relay", autoBeat},
		{config.Service{Forwarding: "direct", Heartbeat: beat}, "relay", "heartbeat"},
	} {
		if by, why := c.s.Carrier(); by != c.by || why != c.why {
			t.Errorf("%s: got %s, %q; want %s, %q", c.s.Forwarding, by, why, c.by, c.why)
		}
	}
}
