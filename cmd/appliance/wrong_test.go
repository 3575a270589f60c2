package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// Every malformed configuration is refused by check and by run, with its
// message and status 2, before anything is touched.
func TestMalformedConfigurationsAreRefused(t *testing.T) {
	files, err := filepath.Glob("../../config/testdata/invalid/*.yaml")
	if err != nil || len(files) < 50 {
		t.Fatalf("got %d malformed configurations and %v, want many", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			for _, command := range [][]string{{"check", file}, {"run", "-c", file}} {
				code, stdout, stderr := appliance(t, command...)
				if code != exitUsage || stdout != "" {
					t.Errorf("%s: got exit status %d and output %q, want 2 and none", command[0], code, stdout)
				}
				for line := range strings.Lines(string(want)) {
					if place := strings.TrimSpace(line); strings.Contains(place, ".yaml:") {
						place = place[strings.Index(place, ".yaml:"):]
						if !strings.Contains(stderr, place) {
							t.Errorf("%s: got\n%s\nwant %q in it", command[0], stderr, place)
						}
					}
				}
			}
		})
	}
}

// appliance runs a command line in this process.
func appliance(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), append([]string{"appliance"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestWrongCommandLinesSayWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"chekc"}, `there is no command "chekc"`},
		{[]string{"run", "--colour"}, "appliance run --help"},
		{[]string{"run", "web"}, "one argument too many"},
		{[]string{"run", "--log-level", "loud"}, "allowed are debug, info, warn, error"},
		{[]string{"run", "--log-format", "xml"}, "allowed are auto, text, json"},
		{[]string{"run", "-c", "../../docs/examples/appliance.yaml", "--threads", "-1"}, "allowed are 0 to 1024"},
		{[]string{"check", "a", "b"}, "one argument too many"},
		{[]string{"check", "-c", "a", "b"}, "named twice"},
		{[]string{"nic", "release"}, "which card?"},
		{[]string{"nic", "release", "eth0", "--all"}, "either a card's name or --all"},
		{[]string{"conns", "--limit", "x"}, "invalid value"},
		{[]string{"policy", "show", "--socket", "x"}, "see `appliance policy show --help`"},
		{[]string{"nic", "release", "a", "b"}, "see `appliance nic release --help`"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			code, stdout, stderr := appliance(t, c.args...)
			if code != exitUsage || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("got exit status %d, output %q and\n%s\nwant 2, none and one line with %q", code, stdout, stderr, c.want)
			}
		})
	}
}

func TestCheckTellsScripts(t *testing.T) {
	code, stdout, _ := appliance(t, "check", "--json", "../../docs/examples/appliance.yaml")
	var got struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK || !got.OK {
		t.Errorf("got exit status %d and %v from\n%s\nwant ok", code, err, stdout)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("interfaces: {wan0: {adresses: []}}\nservices: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ = appliance(t, "check", "--json", bad)
	got.OK, got.Findings = true, nil
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitUsage || got.OK || len(got.Findings) < 2 || got.Findings[0].Line != 1 {
		t.Errorf("got exit status %d and %v from\n%s\nwant two findings", code, err, stdout)
	}
}

func TestWithoutADaemonTheCommandsSayHowToStartOne(t *testing.T) {
	for _, command := range []string{"status", "conns"} {
		code, _, stderr := appliance(t, command, "--socket", filepath.Join(t.TempDir(), "none.sock"))
		if code != exitError || !strings.Contains(stderr, "appliance run -c FILE") {
			t.Errorf("%s: got exit status %d and %q", command, code, stderr)
		}
	}
}

// One clear sentence each, and the card stays the kernel's.
func TestWhatCannotBeServedIsSaidInOneSentence(t *testing.T) {
	r := newRig(t, nil)
	labtest.Addr(t, r.box, "wan0", "192.0.2.77/24")
	fails := func(t *testing.T, wants ...string) {
		t.Helper()
		_, stderr, code := r.run("run", "-c", r.file, "--log-format", "json", "--log-level", "error")
		if code != exitError || strings.Count(stderr, "\n") != 1 {
			t.Errorf("got exit status %d and %q, want 1 and one sentence", code, stderr)
		}
		contains(t, "stderr", stderr, wants...)
		out, _, _ := r.run("nic", "list")
		contains(t, "nic list", out, "192.0.2.77/24")
	}
	t.Run("missing card", func(t *testing.T) {
		r.configure("services: {}\n")
		text := "interfaces: {wan0: {addresses: [192.0.2.10/24]}, wan7: {addresses: [10.7.0.1/24]}}\nservices: {echo: {type: echo, listen: \"wan0:7\"}}\n"
		if err := os.WriteFile(r.file, []byte(text+"admin: {socket: "+r.socket+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		fails(t, "claim wan7: there is no such network card; there are: lan0, wan0")
	})
	t.Run("address in use", func(t *testing.T) {
		labtest.Addr(t, r.client, "c0", "192.0.2.10/24")
		r.configure("services: {echo: {type: echo, listen: \"wan0:7\"}}\n")
		fails(t, "address 192.0.2.10 on wan0 is already used by")
		if err := r.client.RemoveAddr("c0", netip.MustParsePrefix("192.0.2.10/24")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("socket and card in use", func(t *testing.T) {
		r.configure("services: {echo: {type: echo, listen: \"wan0:7\"}}\ndrain: {announce: 0s}\n")
		p := r.start()
		_, stderr, code := r.run("run", "-c", r.file)
		if code != exitError {
			t.Errorf("a second run: got exit status %d", code)
		}
		contains(t, "a second run", stderr, "another appliance answers at "+r.socket)
		other := filepath.Join(r.dir, "other.yaml")
		text, err := os.ReadFile(r.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other, bytes.Replace(text, []byte(r.socket), []byte(r.socket+"2"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code = r.run("run", "-c", other)
		if code != exitError {
			t.Errorf("a second run with its own socket: got exit status %d", code)
		}
		contains(t, "a second run with its own socket", stderr, "claim wan0: the card is held by the running process")
		p.stop()
	})
}

func TestAnUnreachableBackendIsSaidInOneLine(t *testing.T) {
	r := newRig(t, nil)
	r.configure(`services: {web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.99:80", "10.0.0.21:80"], connect_timeout: 1s, connect_retries: 1}}
drain: {announce: 0s}
`)
	p := r.start()
	c := r.dial("192.0.2.10:80")
	if err := <-polite(t, c); err == nil {
		t.Error("a client without a backend got FIN, want a reset")
	}
	eventually(t, 5*time.Second, "both backends are reported", func() bool {
		return strings.Count(p.log.String(), "backend failed, new connections go to others") == 2
	})
	out, _, _ := r.run("conns", "--closed")
	contains(t, "conns --closed", out, "no_backend", "us rst")
	out, _, _ = r.run("status")
	contains(t, "status", out, "10.0.0.99:80", "down")
	p.stop()
}
