package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/golden"
)

// policiesFile is a configuration with a quick policy and a patient one.
func policiesFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "appliance.yaml")
	text := `interfaces: {lan0: {addresses: [10.0.0.1/24]}}
policies:
  default: {retransmit: {loss_detection: sack}}
  quick: {keepalive: {idle: 5s, interval: 1s, probes: 3}, retransmit: {max_retries: 5}, time_wait: {duration: 90s, max: 1000}}
  patient: {keepalive: off, user_timeout: off, close_wait: off}
services:
  echo: {type: echo, listen: "lan0:7", policy: quick}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPoliciesAreShownWithWhatTheyMeanInTime(t *testing.T) {
	path := policiesFile(t)
	for name, args := range map[string][]string{
		"policy list":            {"policy", "list", "-c", path},
		"policy show quick":      {"policy", "show", "-c", path, "quick"},
		"policy show quick 20ms": {"policy", "show", "-c", path, "--rtt", "20ms", "quick"},
		"policy show patient":    {"policy", "show", "-c", path, "patient"},
	} {
		code, stdout, stderr := appliance(t, args...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit status %d, %s", name, code, stderr)
		}
		golden.Check(t, filepath.Join("testdata", name+".golden"), stdout)
	}
}

func TestAPolicyForAScript(t *testing.T) {
	code, stdout, _ := appliance(t, "policy", "show", "--json", "-c", policiesFile(t), "quick")
	var m meaning
	if err := json.Unmarshal([]byte(stdout), &m); err != nil || code != 0 {
		t.Fatalf("exit status %d, %v: %s", code, err, stdout)
	}
	if m.Idle.GiveUp != 8*time.Second || m.Data.GiveUp != 8*time.Second || m.Handshake.GiveUp != 31*time.Second || !strings.Contains(m.Policy, "idle: 5s") {
		t.Errorf("got %+v", m)
	}
}

func TestAPolicyThatThereIsNotIsNamedWithThoseThatThereAre(t *testing.T) {
	code, _, stderr := appliance(t, "policy", "show", "-c", policiesFile(t), "quik")
	if code != 1 || !strings.Contains(stderr, "default, patient, quick") {
		t.Errorf("exit status %d, %s", code, stderr)
	}
	code, _, stderr = appliance(t, "policy", "show", "-c", policiesFile(t))
	if code != 2 || !strings.Contains(stderr, "name one policy") {
		t.Errorf("exit status %d, %s", code, stderr)
	}
}
