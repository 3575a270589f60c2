package labtest

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// Host makes a host for as long as the test runs.
func Host(t testing.TB, name string) *lab.Host {
	t.Helper()
	Need(t)
	h, err := lab.NewHost(name)
	if err != nil {
		t.Fatalf("new host: %v", err)
	}
	Close(t, h)
	return h
}

// Close closes c when the test ends.
func Close(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
}

// Wire connects two hosts.
func Wire(t testing.TB, a *lab.Host, aIf string, b *lab.Host, bIf string) {
	t.Helper()
	if err := lab.Wire(a, aIf, b, bIf); err != nil {
		t.Fatal(err)
	}
}

// WireImpaired connects two hosts by a line with faults.
func WireImpaired(t testing.TB, a *lab.Host, aIf string, b *lab.Host, bIf string, im lab.Impairment) *lab.ImpairedLink {
	t.Helper()
	l, err := lab.WireImpaired(a, aIf, b, bIf, im)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, l)
	return l
}

// Addr gives an interface its addresses, written as "10.0.0.1/24".
func Addr(t testing.TB, h *lab.Host, ifname string, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		if err := h.AddAddr(ifname, netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
	}
}

// Route sends what goes to dst, as "0.0.0.0/0", through the neighbour via.
func Route(t testing.TB, h *lab.Host, dst, via string) {
	t.Helper()
	if err := h.AddRoute(netip.MustParsePrefix(dst), netip.MustParseAddr(via)); err != nil {
		t.Fatal(err)
	}
}

// Sysctl sets a kernel parameter of the host.
func Sysctl(t testing.TB, h *lab.Host, key, value string) {
	t.Helper()
	if err := h.Sysctl(key, value); err != nil {
		t.Fatal(err)
	}
}

// Capture records an interface until the test ends.
func Capture(t testing.TB, h *lab.Host, ifname string) *lab.Capture {
	t.Helper()
	c, err := h.Capture(ifname)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, c)
	return c
}

// Raw opens an interface for hand-made frames.
func Raw(t testing.TB, h *lab.Host, ifname string) *lab.Raw {
	t.Helper()
	r, err := h.Raw(ifname)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, r)
	return r
}

// Tap makes a tap device, or skips the test where this user may not: the
// device file is closed to others than root on some machines.
func Tap(t testing.TB, h *lab.Host, name string) *os.File {
	t.Helper()
	f, err := lab.Tap(h, name)
	switch {
	case errors.Is(err, fs.ErrPermission):
		t.Skipf("this user may not make taps: %v", err)
	case errors.Is(err, fs.ErrNotExist):
		Lacks(t, "the tun driver", err)
	case err != nil:
		t.Fatal(err)
	}
	Close(t, f)
	return f
}

// Start starts cmd inside the host. When the test ends it is killed, if it
// still runs, and waited for. Wait for it by the channel, not by cmd.Wait.
func Start(t testing.TB, h *lab.Host, cmd *exec.Cmd) (ended <-chan error) {
	t.Helper()
	if err := h.Start(cmd); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	done, all := make(chan error, 1), make(chan struct{})
	go func() {
		done <- cmd.Wait()
		close(all)
	}()
	t.Cleanup(func() {
		// It has ended already if this fails.
		_ = cmd.Process.Signal(unix.SIGKILL)
		<-all
	})
	return done
}

// Echo starts an echo server on h.
func Echo(t testing.TB, h *lab.Host, addr string) *lab.Server {
	t.Helper()
	s, err := lab.Echo(t.Context(), h, addr)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, s)
	return s
}

// Web starts an HTTP server on h with lab.Pages.
func Web(t testing.TB, h *lab.Host, addr string) *lab.Web {
	t.Helper()
	w, err := lab.NewWeb(t.Context(), h, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, w)
	return w
}

// BulkServer starts a server for lab.Bulk on h.
func BulkServer(t testing.TB, h *lab.Host, addr string, send, want lab.Blob) *lab.Server {
	t.Helper()
	s, err := lab.BulkServer(t.Context(), h, addr, send, want)
	if err != nil {
		t.Fatal(err)
	}
	Close(t, s)
	return s
}
