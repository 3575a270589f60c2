package main

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// named is a server that tells its name before it echoes.
func named(t testing.TB, h *lab.Host, addr, name string) *lab.Server {
	t.Helper()
	s, err := lab.Serve(t.Context(), h, addr, func(c net.Conn) error {
		if _, err := c.Write([]byte(name + "\n")); err != nil {
			return err
		}
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return nil
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	return s
}

func TestTheExampleConfigurationServes(t *testing.T) {
	r := newRig(t, nil)
	text, err := os.ReadFile("../../docs/examples/appliance.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "/run/appliance.sock", r.socket, 1)
	if err := os.WriteFile(r.file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	named(t, r.backend, "10.0.0.21:443", "one")
	named(t, r.backend, "10.0.0.22:443", "two")
	labtest.Addr(t, r.box, "wan0", "192.0.2.77/24")
	p := r.start()

	// Backends take turns, over IPv4 and IPv6.
	a, b := r.dial("192.0.2.10:443"), r.dial("[2001:db8::10]:443")
	exchange(t, a, "", "one\n")
	exchange(t, b, "", "two\n")
	exchange(t, a, "hello\n", "hello\n")
	exchange(t, b, "hello\n", "hello\n")
	echo, err := r.backend.Dial(t.Context(), "tcp", "10.0.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	exchange(t, echo, "ping\n", "ping\n")

	checkListings(t, r)
	ends := []<-chan error{polite(t, a), polite(t, b), polite(t, echo)}
	p.stop()
	for i, saw := range ends {
		if err := <-saw; err != nil {
			t.Errorf("client %d: got %v at the end, want FIN", i, err)
		}
	}

	// The card is the kernel's again, with the address it had.
	out, _, _ := r.run("nic", "list")
	contains(t, "nic list after the end", out, "192.0.2.77/24", "kernel")
}

// checkListings looks at the daemon from the command line, with two proxied
// connections and one to echo.
func checkListings(t *testing.T, r *rig) {
	t.Helper()
	out, _, code := r.run("status")
	if code != 0 {
		t.Fatalf("status: got exit status %d", code)
	}
	contains(t, "status", out, "web", "192.0.2.10:443 [2001:db8::10]:443", "10.0.0.22:443", "wan0", "ESTABLISHED 5")
	out, _, _ = r.run("status", "--json")
	var s admin.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Services) != 2 || s.Services[0].Counters.Active != 2 || len(s.Services[0].Backends) != 2 {
		t.Errorf("status --json: got %+v, want two services, web with 2 connections", s.Services)
	}
	out, _, _ = r.run("conns")
	contains(t, "conns", out, "ESTABLISHED/ESTABLISHED", "10.0.0.21:443", "192.0.2.2:", "sack", "rto:", "cwnd:")
	out, _, _ = r.run("conns", "--json", "--service", "web", "--limit", "1")
	var rows []services.Row
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Service != "web" || rows[0].ToBackend == 0 {
		t.Errorf("conns --json: got %+v, want one connection of web that moved bytes", rows)
	}
	out, _, _ = r.run("nic", "list")
	contains(t, "nic list", out, "appliance (pid")
}
