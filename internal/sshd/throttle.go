package sshd

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	mostFailures = 10          // of one peer, after which it waits
	forgetAfter  = time.Minute // since the last failure
	mostPeers    = 1024        // that are remembered
)

// throttle refuses peers that have failed to log in again and again. IPv6 peers
// are counted by /64: a host has all of it.
type throttle struct {
	mu    sync.Mutex // guards peers
	peers map[netip.Prefix]*failures
}

type failures struct {
	n    int
	last time.Time
}

func newThrottle() *throttle { return &throttle{peers: make(map[netip.Prefix]*failures)} }

func peerOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := ap.Addr().Unmap(), 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.WithZone("").Prefix(bits) // bits suit the family
	return p
}

func (t *throttle) allows(a net.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := peerOf(a)
	f := t.peers[p]
	if f == nil {
		return true
	}
	if now.Sub(f.last) >= forgetAfter {
		delete(t.peers, p)
		return true
	}
	return f.n < mostFailures
}

// failed counts a failure. If too many peers fail, the one whose last failure is
// oldest is forgotten.
func (t *throttle) failed(a net.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := peerOf(a)
	f := t.peers[p]
	if f == nil {
		if len(t.peers) >= mostPeers {
			t.forgetOldest()
		}
		f = &failures{}
		t.peers[p] = f
	}
	f.n++
	f.last = now
}

func (t *throttle) forgetOldest() {
	var oldest netip.Prefix
	for p, f := range t.peers {
		if o := t.peers[oldest]; o == nil || f.last.Before(o.last) {
			oldest = p
		}
	}
	delete(t.peers, oldest)
}
