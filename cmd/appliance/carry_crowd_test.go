package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/carrytest"
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
	needFiles(t, 2*n+1000)
	for _, f := range s.forwarding {
		t.Run(f, func(t *testing.T) { crowd(t, f, n, s.seed) })
	}
}

// needFiles raises the limit of open files: a client's and its backend's socket
// are both this process's.
func needFiles(t testing.TB, want int) {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur >= uint64(want) {
		return
	}
	l.Cur, l.Max = uint64(want), max(l.Max, uint64(want))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Skipf("this user may not have %d open files: %v", want, err)
	}
}

func crowd(t *testing.T, forwarding string, n int, seed uint64) {
	r, origins := newCrowdRig(t, forwarding)
	p := r.start()
	fresh := r.status()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	began := time.Now()
	c, err := carrytest.OpenCrowd(ctx, origins, n)
	if err != nil {
		t.Fatal(err)
	}
	opened := time.Since(began)
	rng := rand.New(rand.NewPCG(seed, 0xc204d))
	asked := 0
	for end := time.Now().Add(time.Minute); time.Now().Before(end) || asked < 2*n; asked += n / 4 {
		if err := c.Ask(ctx, rng, n/4); err != nil {
			t.Fatal(err)
		}
	}
	if lost, why := c.Lost(); lost > 0 {
		t.Errorf("%d of %d connections were lost, the first: %v", lost, n, why)
	}
	s := r.status()
	active := int64(0)
	for _, service := range s.Services {
		active += service.Counters.Active
	}
	if active != int64(n) {
		t.Errorf("the appliance counts %d connections, want %d", active, n)
	}
	resident, err := residentBytes(p.cmd.Process.Pid)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d connections opened in %v, %d questions answered; the appliance has %d MB resident, %d bytes of Go's memory each", n, opened.Round(time.Second), asked, resident>>20, int64(s.Memory-fresh.Memory)/int64(n))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, time.Minute, "all connections have ended", func() bool {
		active := int64(0)
		for _, service := range r.status().Services {
			active += service.Counters.Active
		}
		return active == 0
	})
	p.stop()
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
	const clients, backends, addresses, port = 4, 2, 4, 7
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
		var at []netip.AddrPort
		for k := range addresses {
			ip := netip.AddrFrom4([4]byte{10, 2, byte(y), byte(2 + k)})
			labtest.Addr(t, h, "e0", ip.String()+"/24")
			at = append(at, netip.AddrPortFrom(ip, port))
		}
		s, err := carrytest.ServeCrowd(h, at)
		if err != nil {
			t.Fatal(err)
		}
		labtest.Close(t, s)
	}
	text := interfaces + services + "drain: {deadline: 5s, fin_grace: 5s}\nadmin: {socket: " + r.socket + "}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, origins
}
