package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/internal/boot"
	"github.com/lastack/lastack/internal/golden"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/services/proxy"
)

func TestHelpOfEveryCommand(t *testing.T) {
	for _, command := range []string{"", "run", "check", "demo", "status", "conns", "conn", "conn why", "conn probe", "conn kill", "policy", "policy list", "policy show", "nic", "nic list", "nic release", "update", "update install", "update status", "update commit", "update rollback", "update bundle", "update key", "reboot", "poweroff", "factory-reset", "log", "image", "image build", "image verify", "image flash", "image lock", "qemu", "version"} {
		t.Run("help "+command, func(t *testing.T) {
			code, stdout, stderr := appliance(t, append(strings.Fields(command), "--help")...)
			if code != 0 || stderr != "" {
				t.Errorf("got exit status %d and %q on stderr", code, stderr)
			}
			golden.Check(t, filepath.Join("testdata", strings.TrimSpace("help "+command)+".golden"), stdout)
		})
	}
}

func TestWithoutACommandTheHelpIsShown(t *testing.T) {
	code, stdout, _ := appliance(t)
	if code != 0 || !strings.Contains(stdout, "COMMANDS:") {
		t.Errorf("got exit status %d and\n%s\nwant the help", code, stdout)
	}
}

var (
	client  = netip.MustParseAddrPort("198.51.100.7:40000")
	local   = netip.MustParseAddrPort("192.0.2.10:443")
	source  = netip.MustParseAddrPort("10.0.0.1:20000")
	backend = netip.MustParseAddrPort("10.0.0.21:443")
	noon    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func TestTheStoryOfABoxForPeople(t *testing.T) {
	one, two, three := bundle.Release{Version: "v1.0", Build: 10}, bundle.Release{Version: "v1.1", Build: 11}, bundle.Release{Version: "v1.2", Build: 12}
	s := boot.Status{
		Release: two, Kernel: "6.1.0", Hostname: "lastack-123456", Uptime: 90 * time.Minute, Slot: "B", Stable: time.Minute, Watchdog: "i6300ESB timer, 30s", Data: true,
		Slots:    []boot.SlotStatus{{Slot: "A", Title: three.String(), State: "bad: tried 3 times without success"}, {Slot: "B", Running: true, Title: two.String(), State: "good"}},
		Problems: map[string]string{"nvram": "the firmware's boot options are out of reach"},
		Updates: []boot.UpdateRecord{
			{Time: noon, From: one, To: two, Slot: "B", Result: boot.Good},
			{Time: noon.Add(time.Hour), From: two, To: three, Slot: "A", Result: boot.RolledBack, Why: "try 1: reboot: not good after 6m0s: the appliance is not ready"},
		},
		Boots: []boot.BootRecord{
			{Number: 7, Time: noon.Add(time.Hour), Slot: "A", Release: three, Try: 1, End: "reboot: not good after 6m0s: the appliance is not ready"},
			{Number: 8, Time: noon.Add(2 * time.Hour), Slot: "B", Release: two, Ready: true, Good: true},
		},
	}
	var b strings.Builder
	if err := writeBox(&b, s); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "update status.golden"), b.String())

	b.Reset()
	s.Trial, s.Wrong, s.Problems, s.Updates, s.Boots = true, "interfaces have no link: eth1", nil, nil, nil
	if err := writeBox(&b, s); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "update status trial.golden"), b.String())
}

func TestListingsForPeople(t *testing.T) {
	var b strings.Builder
	status := admin.Status{
		Version: "v1", PID: 42, Config: "/etc/appliance.yaml", Started: noon.Add(-90 * time.Minute), Phase: "serving", Threads: 1, Memory: 32 << 20,
		Interfaces: []admin.Interface{{Name: "wan0", Up: true, MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24")},
			Counters: map[string]uint64{"rx_bytes": 3 << 20, "tx_bytes": 1 << 10, "rx_frames": 9, "rx_bad_checksum": 2}}},
		Services: []admin.Service{
			{Name: "web", Type: "proxy", Phase: "serving", Listen: []netip.AddrPort{local},
				Counters: services.Counters{Active: 1, Accepted: 7, Ended: map[string]uint64{"finished": 6}, ToBackend: 100, Carried: map[tcpinfo.Carrier]int64{tcpinfo.Direct: 3, tcpinfo.Relay: 1}, ToClient: 5 << 30},
				Backends: []proxy.BackendRow{{Addr: backend, Up: true, Active: 1, Connects: 7}, {Addr: backend, Failures: 3}}},
			{Name: "echo", Type: "echo", Phase: "serving", Listen: []netip.AddrPort{source}},
		},
		TCP: map[string]int{"ESTABLISHED": 2, "TIME-WAIT": 6},
	}
	if err := writeStatus(&b, status, noon); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "status.golden"), b.String())

	b.Reset()
	info := tcpinfo.Info{State: "ESTABLISHED", RTT: 12 * time.Millisecond, RTTVar: time.Millisecond, RTO: 212 * time.Millisecond, SndCwnd: 10, SegsIn: 3, SegsOut: 4, SACK: true, Timestamps: true,
		SndMSS: 1448, CaState: "recovery", Unacked: 2896, SndWnd: 65535, RcvWnd: 1 << 20, Backoff: 1,
		Timers: []tcpinfo.Timer{{Name: tcpinfo.Retransmit, Left: 150 * time.Millisecond}, {Name: tcpinfo.Keepalive, Left: time.Minute, Try: 2}}}
	life := services.Life{Options: tcpinfo.Options{Seen: true, SndMSS: 1460, RcvMSS: 1460, SndScale: 7, RcvScale: 4, SACK: true, Timestamps: true}}
	rows := []services.Row{{ID: 1, Service: "web", Carrier: tcpinfo.Relay, Why: "heartbeat", State: "ESTABLISHED/ESTABLISHED", Policy: "default", ClientLife: life, Client: client, Local: local, Source: source, Backend: backend,
		ToBackend: 1 << 20, ToClient: 77, Age: 3 * time.Hour, Idle: 250 * time.Millisecond, Connect: 300 * time.Microsecond, ClientInfo: info, BackendInfo: info},
		{ID: 9, Service: "echo", State: "CLOSE-WAIT", Client: client, Local: local, Age: 50 * time.Hour, Idle: time.Second, ClientInfo: info}}
	if err := writeConns(&b, rows, look{wide: true}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "conns.golden"), b.String())

	b.Reset()
	ended := []services.Ended{{ID: 1, Service: "web", Carrier: tcpinfo.Splice, Why: "forwarding: splice", ClientAddr: client, BackendAddr: backend, Reason: services.Finished, First: services.First{Who: "client", How: services.ByFIN},
		Outcome: services.Clean, Client: services.EndedSide{Present: true, FinAcked: true}, Backend: services.EndedSide{Present: true, FinAcked: true}, ToBackend: 5, ToClient: 6, Opened: noon, Lasted: time.Second},
		{ID: 2, Service: "echo", ClientAddr: client, Reason: services.ClientTimeout, Outcome: services.Unacked, Client: services.EndedSide{Present: true}, Opened: noon, Lasted: time.Minute}}
	if err := writeEnded(&b, ended, true); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join("testdata", "conns closed.golden"), b.String())
}
