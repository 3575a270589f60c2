package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/carrytest"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

// 100,000 connections of kernel peers, from four hosts to eight addresses of two,
// are open at once, and any of them answers at any time.
func TestAHundredThousandConnectionsStayOpen(t *testing.T) {
	if os.Getenv("APPLIANCE_SOAK") == "" {
		t.Skip("it takes minutes and gigabytes: make soak")
	}
	s := carryWish(t)
	n := 100_000
	if s.count < 10_000 {
		n = s.count
	}
	needFiles(t, n/crowdAddresses+1000)
	for _, f := range s.forwarding {
		t.Run(f, func(t *testing.T) { crowd(t, f, n) })
	}
}

// crowdAddresses is how many addresses clients connect to, and backends have: for
// each there is a process.
const crowdAddresses = 8

// needFiles skips the test if a process may not have so many open files.
func needFiles(t testing.TB, want int) {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Max < uint64(want) {
		t.Skipf("a process may have %d open files here, and this takes %d", l.Max, want)
	}
}

func crowd(t *testing.T, forwarding string, n int) {
	r, origins := newCrowdRig(t, forwarding)
	p := r.start()
	fresh := r.status()
	began := time.Now()
	var clients []*carrytest.CrowdProcess
	for _, o := range origins {
		clients = append(clients, startCrowd(t, o.Host, o.To, n/crowdAddresses))
	}
	await(t, clients, (*carrytest.CrowdProcess).Await)
	opened, asked := time.Since(began), 0
	for end := time.Now().Add(time.Minute); time.Now().Before(end) || asked < 2*n; asked += n / 4 {
		for _, c := range clients {
			if err := c.Ask(n / 4 / crowdAddresses); err != nil {
				t.Fatal(err)
			}
		}
		await(t, clients, (*carrytest.CrowdProcess).Answered)
	}
	s := r.status()
	if got := active(s); got != int64(n) {
		t.Errorf("the appliance counts %d connections, want %d", got, n)
	}
	resident, err := residentBytes(p.cmd.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d connections opened in %v, %d questions answered; the appliance has %d MB resident, %d bytes of Go's memory each",
		n, opened.Round(time.Second), asked, resident>>20, int64(s.Memory-fresh.Memory)/int64(n))
	for _, c := range clients {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	began = time.Now()
	eventually(t, 5*time.Minute, "all connections have ended", func() bool { return active(r.status()) == 0 })
	t.Logf("all ended in %v", time.Since(began).Round(time.Second))
	p.stop()
}

// startCrowd starts a process that the end of the test ends, if nothing else has.
func startCrowd(t testing.TB, h *lab.Host, at netip.AddrPort, n int) *carrytest.CrowdProcess {
	t.Helper()
	p, err := carrytest.StartCrowd(h, at, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // it may have been closed
	return p
}

// await waits for something of all processes.
func await(t testing.TB, all []*carrytest.CrowdProcess, what func(*carrytest.CrowdProcess) error) {
	t.Helper()
	for _, p := range all {
		if err := what(p); err != nil {
			t.Fatal(err)
		}
	}
}

// active is how many connections all services have.
func active(s admin.Status) (n int64) {
	for _, service := range s.Services {
		n += service.Counters.Active
	}
	return n
}

// residentBytes is the resident memory of a process, see proc_pid_statm(5).
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// newCrowdRig makes an appliance between four hosts with clients and two with
// backends, on plain wires:
//
//	10.1.x.2 ---- 10.1.x.1 wanX box lanY 10.2.y.1 ---- 10.2.y.2 to .5
func newCrowdRig(t testing.TB, forwarding string) (*rig, []carrytest.Origin) {
	t.Helper()
	const clients, backends, addresses, port = 4, 2, crowdAddresses / 2, 7
	r := &rig{t: t, box: labtest.Host(t, "box"), dir: t.TempDir()}
	r.file, r.socket = filepath.Join(r.dir, "appliance.yaml"), filepath.Join(r.dir, "a.sock")
	r.admin = admin.NewClient(r.socket)
	var origins []carrytest.Origin
	interfaces, services := "interfaces:\n", "services:\n"
	for x := range clients {
		h, card := labtest.Host(t, fmt.Sprintf("clients %d", x)), fmt.Sprintf("wan%d", x)
		labtest.Wire(t, h, "e0", r.box, card)
		labtest.Addr(t, h, "e0", fmt.Sprintf("10.1.%d.2/24", x))
		labtest.Sysctl(t, h, "net.ipv4.ip_local_port_range", "1024 65535")
		interfaces += fmt.Sprintf("  %s: {addresses: [10.1.%d.1/24]}\n", card, x)
		for k := range backends * addresses / clients {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(x), 1}), uint16(port+k))
			origins = append(origins, carrytest.Origin{Host: h, To: to})
			i := x*backends*addresses/clients + k
			services += fmt.Sprintf("  s%d: {type: proxy, listen: \"%s:%d\", backends: [\"10.2.%d.%d:%d\"], forwarding: %s}\n",
				i, card, port+k, i/addresses, 2+i%addresses, port, forwarding)
		}
	}
	for y := range backends {
		h, card := labtest.Host(t, fmt.Sprintf("backends %d", y)), fmt.Sprintf("lan%d", y)
		labtest.Wire(t, h, "e0", r.box, card)
		interfaces += fmt.Sprintf("  %s: {addresses: [10.2.%d.1/24]}\n", card, y)
		for k := range addresses {
			ip := netip.AddrFrom4([4]byte{10, 2, byte(y), byte(2 + k)})
			labtest.Addr(t, h, "e0", ip.String()+"/24")
			await(t, []*carrytest.CrowdProcess{startCrowd(t, h, netip.AddrPortFrom(ip, port), 0)}, (*carrytest.CrowdProcess).Await)
		}
	}
	text := interfaces + services + "drain: {deadline: 5s, fin_grace: 5s}\nadmin: {socket: " + r.socket + "}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, origins
}
