package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/golden"
)

func TestHAProxyGetsItsConfiguration(t *testing.T) {
	golden.Check(t, filepath.Join("testdata", "haproxy.golden"), haproxyConfig(5000))
}

func TestApplianceGetsItsConfiguration(t *testing.T) {
	golden.Check(t, filepath.Join("testdata", "appliance.golden"), applianceConfig("/tmp/x/appliance.sock", "auto"))
}

func TestApplianceTakesItsConfiguration(t *testing.T) {
	for _, forwarding := range forwardings {
		file := filepath.Join(t.TempDir(), "appliance.yaml")
		if err := os.WriteFile(file, []byte(applianceConfig("/tmp/x/appliance.sock", forwarding)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(c.Services), len(proxied); got != want {
			t.Errorf("got %d services, want %d", got, want)
		}
		if got := c.Services[0].Forwarding; got != forwarding {
			t.Errorf("got forwarding %q, want %q", got, forwarding)
		}
	}
}

func TestHAProxyTakesItsConfiguration(t *testing.T) {
	path, _ := findHAProxy()
	if path == "" {
		t.Skip("HAProxy is not installed here; a benchmark without it leaves its columns out")
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(haproxyConfig(500)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "-c", "-f", file).CombinedOutput(); err != nil {
		t.Errorf("got %v: %s", err, out)
	}
}
