package sshd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func tcp(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

func TestAPeerThatFailsWaitsAndIsForgotten(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newThrottle()
	for i := range mostFailures {
		if !h.allows(tcp("192.0.2.1:1000"), now) {
			t.Fatalf("refused after %d failures, want %d", i, mostFailures)
		}
		h.failed(tcp("192.0.2.1:1000"), now)
	}
	if h.allows(tcp("192.0.2.1:2000"), now.Add(forgetAfter-1)) {
		t.Error("allowed within the time")
	}
	if !h.allows(tcp("192.0.2.2:1000"), now) {
		t.Error("another host is refused")
	}
	if !h.allows(tcp("192.0.2.1:2000"), now.Add(forgetAfter)) {
		t.Error("refused after the time")
	}
}

func TestAHostIsAllOfItsSubnetInIPv6(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newThrottle()
	for range mostFailures {
		h.failed(tcp("[2001:db8::1]:1000"), now)
	}
	if h.allows(tcp("[2001:db8::ffff]:1000"), now) || !h.allows(tcp("[2001:db8:0:1::1]:1000"), now) {
		t.Error("want the /64 refused and the next one allowed")
	}
}

func TestPeersThatAreRememberedAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newThrottle()
	for i := range 2 * mostPeers {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		h.failed(net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 1)), now.Add(time.Duration(i)))
	}
	if len(h.peers) != mostPeers {
		t.Errorf("got %d peers, want %d", len(h.peers), mostPeers)
	}
}

func TestKeysOfAFile(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHiaDBTzwYmPMsmbJQOkUPMRkcZhQhJ8+ZDVnfA6JpYl"
	got, err := ReadKeys("# mine\n\n" + key + " me@here\n" + key + "\nno key\ncommand=\"x\" " + key + "\n")
	if len(got) != 2 || got[0].Name != "me@here" || got[1].Name != "" {
		t.Errorf("got %d keys %+v, want two", len(got), got)
	}
	if err == nil {
		t.Fatal("got no error, want two lines named")
	}
	for _, want := range []string{"line 5: not a public key", "line 6: options before a key"} {
		if text := err.Error(); !strings.Contains(text, want) {
			t.Errorf("got %q, want %q in it", text, want)
		}
	}
}
