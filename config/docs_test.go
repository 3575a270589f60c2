package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// manual is the text that documents the file.
func manual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocumentedExampleIsTakenWithoutWarning(t *testing.T) {
	_, rest, _ := strings.Cut(manual(t), "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the manual has no example")
	}
	equal(t, "warnings", len(parse(t, example).Warnings()), 0)
}

func TestEveryKeyIsDocumented(t *testing.T) {
	text := manual(t)
	// The error for an unknown key lists every key of its mapping.
	errs := refuse(t, `{"x": 1, interfaces: {lan0: {"x": 1, addresses: [10.0.0.1/24], routes: [{"x": 1}]}}, policies: {default: {"x": 1,
  keepalive: {"x": 1}, retransmit: {"x": 1}, time_wait: {"x": 1}}}, services: {web: {"x": 1, type: echo, listen: "lan0:7", heartbeat: {"x": 1}}}, drain: {"x": 1, profiles: {"x": 1, backend: {"x": 1}}}, admin: {"x": 1, ssh: {"x": 1, listen: "lan0:22", authorized_keys: []}, console: {"x": 1}}, state: {"x": 1}, carried: {"x": 1}, time: {"x": 1}}`)
	documented := 0
	for _, e := range errs {
		if e.Message != "unknown key" {
			t.Errorf("got %v, want only unknown keys", e)
		}
		for key := range strings.SplitSeq(e.Allowed, ", ") {
			documented++
			if !regexp.MustCompile("(## |`|[.])" + regexp.QuoteMeta(key) + "(`|\n)").MatchString(text) {
				t.Errorf("key %s (as %s) is not in the manual", key, e.Key)
			}
		}
	}
	equal(t, "keys", documented, 8+7+2+15+3+5+4+12+5+9+5+8+3+4+1+2+2+2)
}
