package config_test

import (
	"fmt"
	"testing"

	"github.com/lastack/lastack/config"
)

func TestDiffNamesWhatDiffers(t *testing.T) {
	const old = `interfaces: {lan0: {addresses: [10.0.0.1/24]}}
policies: {slow: {user_timeout: 1m}}
services:
  web: {type: proxy, listen: "lan0:80", backends: [10.0.0.21:80, 10.0.0.22:80], policy: slow}
  echo: {type: echo, listen: "lan0:7"}
`
	const next = `interfaces: {lan0: {addresses: [10.0.0.1/24]}}
policies: {slow: {user_timeout: 2m}}
services:
  discard: {type: discard, listen: "lan0:9"}
  web: {type: proxy, listen: "lan0:80", backends: [10.0.0.21:80], policy: slow}
drain: {deadline: 30s}
`
	changes, err := config.Diff(parse(t, old), parse(t, next))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range changes {
		got[c.Key] = c.Old + " -> " + c.New
	}
	for key, want := range map[string]string{
		"policies.slow.user_timeout": "1m -> 2m",
		"services.web.backends":      "['10.0.0.21:80', '10.0.0.22:80'] -> ['10.0.0.21:80']",
		"services.discard.type":      " -> discard",
		"services.echo.type":         "echo -> ",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
	for _, c := range changes {
		if n := fmt.Sprint(c.Section(), " ", c.Name()); n != "policies slow" && n != "services web" && n != "services discard" && n != "services echo" {
			t.Errorf("%s differs too: %q and %q", c.Key, c.Old, c.New)
		}
	}
	if same, err := config.Diff(parse(t, old), parse(t, old)); err != nil || len(same) > 0 {
		t.Errorf("a configuration differs from itself: %v, %v", same, err)
	}
}
