package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
)

// parse wants a text without errors.
func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refuse wants a text with errors.
func refuse(t *testing.T, text string) config.Errors {
	t.Helper()
	_, err := config.Parse("test.yaml", []byte(text))
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got error %v, want config.Errors", err)
	}
	return errs
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func TestDesignSampleIsReadWhole(t *testing.T) {
	path := filepath.Join("testdata", "valid", "design.yaml")
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	addrPort := netip.MustParseAddrPort
	equal(t, "file", c.File, path)
	equal(t, "warnings", len(c.Warnings()), 0)
	equal(t, "interfaces", c.Interfaces, []config.Interface{
		{
			Name:      "wan0",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")},
			Gateways:  []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Pos:       config.Pos{Line: 2, Column: 3},
		},
		{Name: "lan0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Pos: config.Pos{Line: 3, Column: 3}},
	})
	equal(t, "policies", c.Policies, map[string]config.Policy{"default": {
		Name:        "default",
		Keepalive:   config.Keepalive{Idle: time.Minute, Interval: 5 * time.Second, Probes: 3},
		Retransmit:  config.Retransmit{MinRTO: 200 * time.Millisecond, MaxRTO: time.Minute, MaxRetries: 8, SynRetries: 4, LossDetection: "rack"},
		UserTimeout: 2 * time.Minute,
		HalfClose:   5 * time.Minute,
		FinWait2:    time.Minute,
		TimeWait:    config.TimeWait{Duration: time.Minute, Reuse: "newer-syn", Max: 262144},
		Congestion:  "cubic",
		TTL:         64,
		FinWait1:    2 * time.Minute,
		Closing:     2 * time.Minute,
		LastAck:     2 * time.Minute,
		CloseWait:   10 * time.Minute,
		ZeroWindow:  10 * time.Minute,
		Linger:      config.Off,
		Pos:         config.Pos{Line: 5, Column: 3},
	}})
	equal(t, "services", c.Services, []config.Service{
		{
			Name: "web", Type: "proxy", Policy: "default", Balance: "roundrobin", Forwarding: "auto",
			Listen: []config.Listen{{
				Interface: "wan0", Port: 443, Pos: config.Pos{Line: 15, Column: 13},
				Addrs: []netip.AddrPort{addrPort("192.0.2.10:443"), addrPort("[2001:db8::10]:443")},
			}},
			Backends:       []netip.AddrPort{addrPort("10.0.0.21:443"), addrPort("10.0.0.22:443")},
			ConnectTimeout: 5 * time.Second, ConnectRetries: 3, Ledger: 1024, IdleTimeout: config.Off,
			Pos: config.Pos{Line: 13, Column: 3},
		},
		{
			Name: "echo", Type: "echo", Policy: "default", Ledger: 1024, IdleTimeout: config.Off,
			Listen: []config.Listen{{
				Interface: "lan0", Port: 7, Pos: config.Pos{Line: 18, Column: 30},
				Addrs: []netip.AddrPort{addrPort("10.0.0.1:7")},
			}},
			Pos: config.Pos{Line: 18, Column: 3},
		},
	})
	equal(t, "drain", c.Drain, config.Drain{Announce: 2 * time.Second, Deadline: 30 * time.Second, FinGrace: 5 * time.Second, LingerRead: 5 * time.Second, Max: 35 * time.Second, Refuse: "rst"})
	equal(t, "admin", c.Admin, config.Admin{Socket: "/run/appliance.sock"})
}

const lan = "interfaces: {lan0: {addresses: [10.0.0.1/24]}}\n"

func TestDefaultsFillWhatTheFileLeavesOut(t *testing.T) {
	c := parse(t, lan)
	equal(t, "policies", c.Policies, map[string]config.Policy{"default": config.DefaultPolicy()})
	equal(t, "user timeout", c.Policies["default"].UserTimeout, 75*time.Second)
	equal(t, "drain", c.Drain, config.DefaultDrain())
	equal(t, "admin", c.Admin.Socket, config.DefaultSocket)
}

func TestNamedPolicyInheritsFromDefaultWhereverItStands(t *testing.T) {
	c := parse(t, lan+`policies:
  first: {keepalive: {idle: 10s}}
  default: {half_close: 1m, keepalive: {interval: 2s}, retransmit: {max_retries: 5}}
  still: {keepalive: off}
`)
	first, still := c.Policies["first"], c.Policies["still"]
	equal(t, "half_close", first.HalfClose, time.Minute)
	equal(t, "keepalive", first.Keepalive, config.Keepalive{Idle: 10 * time.Second, Interval: 2 * time.Second, Probes: 3})
	equal(t, "user timeout follows its own keepalive", first.UserTimeout, 16*time.Second)
	equal(t, "retransmit", first.Retransmit, c.Policies["default"].Retransmit)
	equal(t, "keepalive off", still.Keepalive, config.Keepalive{Idle: config.Off, Interval: config.Off, Probes: -1})
	equal(t, "user timeout without keepalive", still.UserTimeout, config.Off)
}

func TestKeepaliveTurnedOnAgainStartsFromTheBuiltIn(t *testing.T) {
	c := parse(t, lan+"policies: {default: {keepalive: off}, probed: {keepalive: {probes: 5}}}\n")
	equal(t, "keepalive", c.Policies["probed"].Keepalive, config.Keepalive{Idle: time.Minute, Interval: 5 * time.Second, Probes: 5})
}

func TestDoingWithoutTimeWaitIsHeldAsOff(t *testing.T) {
	c := parse(t, lan+"policies: {default: {time_wait: {duration: 0s, accept_stray_segments: true}}}\n")
	equal(t, "duration", c.Policies["default"].TimeWait.Duration, config.Off)
}

func TestOrderFollowsTheFile(t *testing.T) {
	text := "services:\n"
	want := []string{"z", "a", "m", "b", "y"}
	for i, name := range want {
		text += fmt.Sprintf("  %s: {type: echo, listen: \"%s0:7\"}\n", name, want[len(want)-1-i])
	}
	text += "interfaces:\n"
	for i, name := range want {
		text += fmt.Sprintf("  %s0: {addresses: [10.0.%d.1/24]}\n", name, i)
	}
	c := parse(t, text)
	var services, interfaces []string
	for i := range c.Services {
		services = append(services, c.Services[i].Name)
		interfaces = append(interfaces, strings.TrimSuffix(c.Interfaces[i].Name, "0"))
	}
	equal(t, "services", services, want)
	equal(t, "interfaces", interfaces, want)
}

func TestFiveMistakesAreListedAtOnce(t *testing.T) {
	_, err := load(t, filepath.Join("testdata", "invalid", "five-mistakes.yaml"))
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want config.Errors", err)
	}
	var keys []string
	for _, e := range errs {
		keys = append(keys, e.Key)
	}
	equal(t, "keys", keys, []string{
		"interfaces.wan0.addresses[0]", "interfaces.lan0.mtu", "policies.default.half_close",
		"services.web.listen", "services.web.backends[1]",
	})
}

func TestErrorsBeyondTheFirstHundredAreCounted(t *testing.T) {
	text := lan + "drain:\n" + strings.Repeat("  wibble: 1\n", 250)
	errs := refuse(t, text)
	equal(t, "errors", len(errs), 101)
	equal(t, "last", errs[100].Error(), "test.yaml: 150 more errors are not shown")
}

func TestListenersAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString(lan + "services:\n  echo:\n    type: echo\n    listen:\n")
	for port := range 1<<14 + 2 {
		fmt.Fprintf(&text, "      - lan0:%d\n", port+1)
	}
	errs := refuse(t, text.String())
	equal(t, "errors", len(errs), 1)
	equal(t, "place", errs[0].Pos, config.Pos{Line: 6 + 1<<14, Column: 9})
}

func TestUnreadableFileIsOneSentence(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"))
	if err == nil || !strings.HasSuffix(err.Error(), "none.yaml: read the configuration: no such file or directory") {
		t.Errorf("got %v", err)
	}
	_, err = config.Load(t.TempDir())
	if err == nil || !strings.HasSuffix(err.Error(), ": read the configuration: is a directory") {
		t.Errorf("got %v", err)
	}
}

func TestFileBeyondOneMebibyteIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.yaml")
	fits := lan + "#" + strings.Repeat("x", 1<<20-len(lan)-1)
	for text, want := range map[string]string{fits: "", fits + "x": path + ": the file is larger than 1024 KiB"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err := config.Load(path); err != nil {
			got = err.Error()
		}
		equal(t, "error", got, want)
	}
}

func TestLongLineIsCutAroundTheCaret(t *testing.T) {
	errs := refuse(t, "interfaces: {lan0: {addresses: [10.0.0.1/24]}, "+strings.Repeat(" ", 5000)+"lan1: 5"+strings.Repeat(" ", 5000)+"}\n")
	lines := strings.Split(errs[0].Error(), "\n")
	if len(lines) != 3 || len(lines[1]) > 120 {
		t.Fatalf("got %q", lines)
	}
	caret := strings.IndexByte(lines[2], '^')
	equal(t, "under the caret", lines[1][caret:caret+1], "5")
}

func TestMessagesShowNoControlCharacters(t *testing.T) {
	errs := refuse(t, `interfaces: {"a\e[2J b": {addresses: ["fe80::1%\e[31m/64"], gateway: "\a"}}`+"\n\"\\e]0;\": 1\n")
	if strings.ContainsAny(errs.Error(), "\x1b\a") {
		t.Errorf("got %q", errs.Error())
	}
}

func TestMistakeInAnInterfaceRaisesNoErrorsElsewhere(t *testing.T) {
	errs := refuse(t, `interfaces: {lan0: {addresses: [10.0.0.1/99], gateway: 10.0.0.254}}
services: {web: {type: proxy, listen: "lan0:443", backends: [10.0.0.21:443]}, echo: {type: echo, listen: "10.0.0.1:7"}}
`)
	equal(t, "errors", len(errs), 1)
	equal(t, "key", errs[0].Key, "interfaces.lan0.addresses[0]")
}

func TestBackendBehindAnnouncedRouterIsReachable(t *testing.T) {
	parse(t, `interfaces: {wan0: {addresses: ["2001:db8::10/64"], accept_ra: true}}
services: {web: {type: proxy, listen: "wan0:443", backends: ["[2001:db8:9::1]:443"]}}
`)
}

func TestWarningsCannotBeChangedThroughTheirList(t *testing.T) {
	c := parse(t, lan)
	before := c.Warnings()
	if len(before) != 1 {
		t.Fatalf("got %d warnings, want 1", len(before))
	}
	copied := slices.Clone(before)
	before[0].Message = "changed"
	equal(t, "warnings", c.Warnings(), copied)
}
