package proxy

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/services"
)

// Pool picks backends round robin and keeps away from those that fail: a
// backend that couldn't be connected is left out for a while, longer each
// time, and then tried by one connection, so that a dead backend doesn't cost
// every client a timeout. When none is left, all are tried anyway.
type Pool struct {
	backends []*Backend
	gone     []*Backend // that a reload has taken out, and that still have connections
	next     atomic.Uint32
	trial    time.Duration // how long one attempt at a failed backend may take
	log      *slog.Logger
}

// Backend is a server that the proxy connects to.
type Backend struct {
	addr netip.AddrPort

	plan     atomic.Pointer[services.Plan] // of its drain: it gets no new connections; nil without
	fails    atomic.Uint32                 // attempts that failed since the last success
	retryAt  atomic.Int64                  // loop time before which it is left out; 0 when it is up
	active   atomic.Int64
	connects atomic.Uint64
	failures atomic.Uint64
}

// BackendRow describes a backend.
type BackendRow struct {
	Addr     netip.AddrPort `json:"address"`
	Up       bool           `json:"up"`
	Draining bool           `json:"draining"` // it gets no new connections
	Active   int64          `json:"active"`   // connections now
	Connects uint64         `json:"connects"` // connections made
	Failures uint64         `json:"failures"` // attempts that failed
}

const (
	// firstRest and lastRest bound for how long a failed backend is left out:
	// nginx's fail_timeout is 10 s, Envoy's base ejection time 30 s; a short
	// start costs little since only one connection tries.
	firstRest = time.Second
	lastRest  = 30 * time.Second
)

func newPool(addrs []netip.AddrPort, trial time.Duration, log *slog.Logger) *Pool {
	p := &Pool{trial: trial, log: log}
	for _, a := range addrs {
		p.backends = append(p.backends, &Backend{addr: a})
	}
	return p
}

// with is the pool of other addresses; backends that are in both stay as they are.
func (p *Pool) with(addrs []netip.AddrPort, trial time.Duration) *Pool {
	next := newPool(nil, trial, p.log)
	next.next.Store(p.next.Load())
	for _, a := range addrs {
		b := p.known(a)
		if b == nil {
			b = &Backend{addr: a}
		}
		next.backends = append(next.backends, b)
	}
	for _, b := range slices.Concat(p.backends, p.gone) {
		if !slices.Contains(next.backends, b) && (b.active.Load() > 0 || slices.Contains(p.backends, b)) {
			next.gone = append(next.gone, b) // one of the last reload may be dialled just now
		}
	}
	return next
}

// remembering is the pool with a backend besides that only has connections.
func (p *Pool) remembering(b *Backend) *Pool {
	next := newPool(nil, p.trial, p.log)
	next.next.Store(p.next.Load())
	next.backends, next.gone = p.backends, append(slices.Clone(p.gone), b)
	return next
}

// known finds a backend also when a reload has taken it out.
func (p *Pool) known(addr netip.AddrPort) *Backend {
	if b := p.find(addr); b != nil {
		return b
	}
	for _, b := range p.gone {
		if b.addr == addr {
			return b
		}
	}
	return nil
}

// pick chooses the backend for an attempt; after is the one of the attempt
// before, nil for the first. It returns nil if all are drained.
func (p *Pool) pick(now time.Duration, after *Backend) *Backend {
	n := len(p.backends)
	if n == 0 {
		return nil
	}
	var start int
	if after != nil { // also one that is in the pool no more
		start = (slices.Index(p.backends, after) + 1) % n // the first, if it is there no more
	} else {
		start = int((p.next.Add(1) - 1) % uint32(n))
	}
	for i := range n {
		if b := p.backends[(start+i)%n]; b.usable(now, p.trial) {
			return b
		}
	}
	for i := range n { // all that are not drained rest: one of them
		if b := p.backends[(start+i)%n]; b.plan.Load() == nil {
			return b
		}
	}
	return nil
}

// usable reports whether b is up, or its rest is over: then for this caller only.
func (b *Backend) usable(now, trial time.Duration) bool {
	if b.plan.Load() != nil {
		return false
	}
	at := b.retryAt.Load()
	return at == 0 || int64(now) >= at && b.retryAt.CompareAndSwap(at, int64(now+trial))
}

// failed leaves b out for a while.
func (p *Pool) failed(b *Backend, now time.Duration, err error) {
	b.failures.Add(1)
	n := b.fails.Add(1)
	rest := min(lastRest, firstRest<<min(n-1, 8))
	b.retryAt.Store(int64(now + rest))
	if n == 1 {
		p.log.Warn("backend failed, new connections go to others", "backend", b.addr, "error", err)
	}
}

// worked makes b take its turn again.
func (p *Pool) worked(b *Backend) {
	b.connects.Add(1)
	if b.fails.Load() == 0 {
		return
	}
	b.retryAt.Store(0)
	if n := b.fails.Swap(0); n > 0 {
		p.log.Info("backend works again", "backend", b.addr, "failures", n)
	}
}

func (p *Pool) rows() []BackendRow {
	rows := make([]BackendRow, len(p.backends))
	for i, b := range p.backends {
		rows[i] = BackendRow{
			Addr: b.addr, Up: b.fails.Load() == 0, Draining: b.plan.Load() != nil, Active: b.active.Load(),
			Connects: b.connects.Load(), Failures: b.failures.Load(),
		}
	}
	return rows
}
