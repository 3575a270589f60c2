package flow

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// ways are how backends are reached: the table learns them from the answers to
// SYNs, its own and the stack's, which asks for neighbours. A way that nobody has
// confirmed for a while is not used: the next connection goes by the stack, and
// finds out anew.
type ways struct {
	mu sync.Mutex // guards changes of of
	of atomic.Pointer[map[netip.AddrPort]*way]
}

// way is how one is reached.
type way struct {
	own    netip.Addr
	card   uint8
	mac    [6]byte
	tagged bool
	vlan   uint16
	at     *atomic.Uint32 // millisecond of the table when it was confirmed
	next   *atomic.Uint32 // port of ours, shared by all ways to the backend
}

// wayValid is how long a confirmation counts: as long as Linux believes in a
// neighbour without asking (30 s, RFC 4861, 10: REACHABLE_TIME).
const wayValid = 30_000

// waysMost bounds them: there are as many as backends.
const waysMost = 4096

// get returns the way to a backend, or nil.
func (w *ways) get(backend netip.AddrPort, now instant) *way {
	all := w.of.Load()
	if all == nil {
		return nil
	}
	one := (*all)[backend]
	if one == nil || now.ms-one.at.Load() > wayValid {
		return nil
	}
	return one
}

// learn notes how the backend of a flow of ours has answered.
func (w *ways) learn(f *Flow, now instant) {
	backend := f.key.remoteAddr()
	if all := w.of.Load(); all != nil {
		if one := (*all)[backend]; one != nil && one.same(f) {
			one.at.Store(now.ms)
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := make(map[netip.AddrPort]*way)
	if old := w.of.Load(); old != nil {
		for k, v := range *old {
			if now.ms-v.at.Load() <= wayValid || k == backend {
				next[k] = v
			}
		}
	}
	if len(next) >= waysMost {
		return
	}
	one := &way{
		own: f.key.localAddr().Addr(), card: f.card, mac: f.mac, tagged: f.has(tagged), vlan: f.vlan,
		at: new(atomic.Uint32), next: new(atomic.Uint32),
	}
	if old := next[backend]; old != nil {
		one.next = old.next
	} else {
		one.next.Store(uint32(f.hash)) // anywhere, so that a restart does not begin where the last one did
	}
	one.at.Store(now.ms)
	next[backend] = one
	w.of.Store(&next)
}

func (w *way) same(f *Flow) bool {
	return w.mac == f.mac && w.card == f.card && w.vlan == f.vlan && w.tagged == f.has(tagged) && w.own == f.key.localAddr().Addr()
}

// ForgetWays makes the table find out anew how backends are reached: our addresses
// or routes have changed.
func (t *Table) ForgetWays() {
	t.ways.mu.Lock()
	defer t.ways.mu.Unlock()
	t.ways.of.Store(nil)
}

// forget drops a way that led nowhere.
func (w *ways) forget(backend netip.AddrPort) {
	if all := w.of.Load(); all != nil {
		if one := (*all)[backend]; one != nil {
			one.at.Store(one.at.Load() - wayValid - 1)
		}
	}
}
