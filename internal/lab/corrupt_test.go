package lab_test

import (
	"bytes"
	"math/bits"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestCorruptFramesNeverReachTheReaderOfAConnection(t *testing.T) {
	a, b, link := impairedPair(t, lab.Impairment{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			sayHello(t, a, b, f.b) // the neighbours know each other
			link.Set(lab.Impairment{Corrupt: 0.05, Seed: 11})
			defer link.Set(lab.Impairment{})
			blob := lab.Blob{Seed: 3, Size: 1 << 20}
			s := labtest.BulkServer(t, b, net.JoinHostPort(f.b, "0"), blob, blob)
			if _, err := lab.Bulk(limit(t), a, s.Addr(), blob, blob); err != nil {
				t.Error(err)
			}
		})
	}
	if n := checksumErrors(t, b); n == 0 {
		t.Error("got no checksum error counted by the kernel, want it to have verified frames")
	}
}

// checksumErrors reads TCP's InCsumErrors, the last figure of its line.
func checksumErrors(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Tcp:" && f[len(f)-1] != "0" {
				n++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n - 1 // the headings
}

func TestCorruptionFlipsOneBitAfterTheAddresses(t *testing.T) {
	ra, rb, link := silentPair(t)
	link.Set(lab.Impairment{Corrupt: 1, Seed: 2})
	places := make(map[int]bool)
	for range 300 {
		sent := numbered(77)
		if err := ra.Send(sent); err != nil {
			t.Fatal(err)
		}
		f, err := rb.Recv(limit(t))
		if err != nil {
			t.Fatal(err)
		}
		flipped := 0
		for i := range sent {
			if d := sent[i] ^ f.Data[i]; d != 0 {
				flipped += bits.OnesCount8(d)
				places[i] = true
			}
		}
		if flipped != 1 || !bytes.Equal(sent[:12], f.Data[:12]) {
			t.Fatalf("got %x, want %x with one bit flipped after the addresses", f.Data, sent)
		}
	}
	if len(places) < 40 {
		t.Errorf("got flips in %d of 52 bytes, want them anywhere", len(places))
	}
}

func TestARPIsSparedFromCorruption(t *testing.T) {
	a, b, link := impairedPair(t, lab.Impairment{})
	// Only ARP is spared: with all else damaged, neighbours still meet.
	link.Set(lab.Impairment{Corrupt: 1})
	c := labtest.Capture(t, b, "eth0")
	go a.Dial(t.Context(), "tcp", families[0].b+":9") // ends with the test
	deadline := time.Now().Add(10 * time.Second)
	for !hasARP(c) {
		if time.Now().After(deadline) {
			t.Fatal("got no ARP answer from b")
		}
		time.Sleep(time.Millisecond)
	}
}

// hasARP reports whether the host answered an ARP question.
func hasARP(c *lab.Capture) bool {
	for _, f := range c.Frames() {
		if f.Outgoing && f.Data[12] == 8 && f.Data[13] == 6 && f.Data[21] == 2 {
			return true
		}
	}
	return false
}
