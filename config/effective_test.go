package config_test

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/lastack/lastack/config"
)

// meaning is a configuration without the places it was written at.
func meaning(c *config.Config) config.Config {
	m := config.Config{Drain: c.Drain, Admin: c.Admin, State: c.State, Time: c.Time, Policies: map[string]config.Policy{}}
	m.Admin.SSH.Listen = nil
	for _, l := range c.Admin.SSH.Listen {
		l.Pos = config.Pos{}
		m.Admin.SSH.Listen = append(m.Admin.SSH.Listen, l)
	}
	for _, iface := range c.Interfaces {
		iface.Pos = config.Pos{}
		m.Interfaces = append(m.Interfaces, iface)
	}
	for name, policy := range c.Policies {
		policy.Pos = config.Pos{}
		m.Policies[name] = policy
	}
	for _, service := range c.Services {
		service.Pos = config.Pos{}
		listen := service.Listen
		service.Listen = nil
		for _, l := range listen {
			l.Pos = config.Pos{}
			service.Listen = append(service.Listen, l)
		}
		m.Services = append(m.Services, service)
	}
	return m
}

// roundTrip renders a configuration, reads it again and wants the same.
func roundTrip(t *testing.T, c *config.Config) {
	t.Helper()
	text, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.Parse("effective.yaml", text)
	if err != nil {
		t.Fatalf("got error %v reading\n%s", err, text)
	}
	if got, want := meaning(again), meaning(c); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v\nwant %+v\nfrom\n%s", got, want, text)
	}
	second, err := again.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if string(second) != string(text) {
		t.Fatalf("got\n%s\nwant\n%s", second, text)
	}
}

func TestEffectiveConfigurationMeansTheSame(t *testing.T) {
	for _, path := range files(t, "valid", 6) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := load(t, path)
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, c)
		})
	}
}
