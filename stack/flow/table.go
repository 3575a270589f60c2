package flow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Table knows every TCP connection of a stack. Start begins to expire what is
// over, Close ends that; both are to be called once.
type Table struct {
	Count Counters

	seed     uint64
	secret   uint64 // of ISNs and timestamps
	epoch    int64  // nanoseconds that their clocks are ahead
	ids      func() uint64
	lastID   uint64 // see LastID
	clock    tcpip.Clock
	began    tcpip.MonotonicTime
	born     int64     // nanoseconds after began when this process took over
	wall     time.Time // the same
	rules    atomic.Pointer[rules]
	limit    func(Limit) bool
	resend   ResendFunc
	held     [policiesMost]atomic.Int64 // flows in TIME-WAIT, for each policy
	halfOpen atomic.Int64
	probes   probes
	farewell farewell
	sweep    sweep

	mu          sync.Mutex // guards changes of rules, listeners and cards
	listeners   atomic.Pointer[map[netip.AddrPort]uint16]
	owners      atomic.Pointer[[]owned]
	carriages   atomic.Pointer[map[netip.AddrPort]carriage]
	carriedMost atomic.Pointer[bound]
	carriedNow  atomic.Int64
	pushNext    atomic.Uint32
	ends        ends
	holds       holds
	ways        ways
	cards       atomic.Pointer[[]*Card]
	noPeers     atomic.Pointer[map[netip.Addr]bool]

	shards  [shards]shard
	timer   atomic.Pointer[tcpip.Timer] // set once, by Start
	ticking atomic.Bool                 // the timer runs
	timing  sync.Mutex                  // held while the wheels turn; guards closed
	closed  bool
}

// Limit is a connection that has been in a state for as long as its policy
// allows.
type Limit struct {
	Local, Remote netip.AddrPort
	ID            uint64
	Rule          tcpinfo.Rule
}

// Options say how a Table is made.
type Options struct {
	Policies map[string]config.Policy
	Clock    tcpip.Clock // nil is the real one
	// IDs numbers connections that the stack does not know of, with the stack's
	// numbers; nil where none are carried.
	IDs func() uint64
}

// halfOpenMost bounds flows of handshakes that are under way: beyond it the
// table waits for the handshake to end before it knows the connection.
const halfOpenMost = 16384

// New makes a table. Policy "default" must be among the policies.
func New(o Options) *Table {
	if o.Clock == nil {
		o.Clock = tcpip.NewStdClock()
	}
	t := &Table{
		seed: rand.Uint64(), secret: rand.Uint64(), ids: o.IDs, clock: o.Clock, began: o.Clock.NowMonotonic(), wall: o.Clock.Now(),
	}
	t.rules.Store(&rules{list: []config.Policy{o.Policies["default"]}, names: map[string]uint16{"default": 0}})
	if err := t.SetPolicies(o.Policies); err != nil {
		panic("flow: " + err.Error()) // a configuration has fewer
	}
	t.epoch = epochOf(t.wall)
	t.probes.init()
	t.ends.init()
	t.holds.init()
	for i := range t.shards {
		t.shards[i].no = uint8(i)
	}
	return t
}

// policiesMost bounds the names of policies that a table meets in its life.
const policiesMost = 1024

// rules are the policies, by the numbers that flows know them by. They are never
// changed, only replaced.
type rules struct {
	list   []config.Policy
	giveUp []time.Duration // of max_retries: see repetitions
	names  map[string]uint16
}

// SetPolicies puts other policies in force, for live connections as well. A
// policy keeps its number as long as the table lives: one that is not among them
// stays as it was.
func (t *Table) SetPolicies(all map[string]config.Policy) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.rules.Load()
	next := &rules{list: slices.Clone(old.list), names: maps.Clone(old.names)}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		i, known := next.names[name]
		if known {
			next.list[i] = all[name]
			continue
		}
		if len(next.list) == policiesMost {
			return fmt.Errorf("there have been %d policies since the start: restart to have others", policiesMost)
		}
		next.names[name] = uint16(len(next.list))
		next.list = append(next.list, all[name])
	}
	for _, p := range next.list {
		next.giveUp = append(next.giveUp, repetitions(p.Retransmit))
	}
	t.rules.Store(next)
	t.retime()
	return nil
}

// policy is the one with a number.
func (t *Table) policy(i uint16) *config.Policy { return &t.rules.Load().list[i] }

// numberOf is the number of the named policy, that of the default one for an
// unknown name.
func (t *Table) numberOf(name string) uint16 { return t.rules.Load().names[name] }

func (t *Table) newID() uint64 {
	if t.ids == nil {
		return 0
	}
	return t.ids()
}

// now is the time of the table.
func (t *Table) now() instant {
	ns := t.clock.NowMonotonic().Sub(t.began).Nanoseconds()
	return instant{ns, uint32(ns / 1e6)}
}

func (t *Table) shard(k *key) (*shard, uint32) {
	h := k.hash(t.seed)
	return &t.shards[h>>56], uint32(h)
}

// Listen makes connections to addr flows under the named policy from their
// first SYN on; Unlisten ends that.
func (t *Table) Listen(addr netip.AddrPort, policy string) {
	t.changeListeners(func(m map[netip.AddrPort]uint16) { m[addr] = t.numberOf(policy) })
}

// Unlisten is the end of Listen. Connections stay known.
func (t *Table) Unlisten(addr netip.AddrPort) {
	t.changeListeners(func(m map[netip.AddrPort]uint16) { delete(m, addr) })
}

func (t *Table) changeListeners(f func(map[netip.AddrPort]uint16)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := make(map[netip.AddrPort]uint16)
	if old := t.listeners.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	f(next)
	t.listeners.Store(&next)
}

// NoPeers tells addresses that nobody else has: our own, and those of broadcasts
// on our links. A SYN from one is dropped.
func (t *Table) NoPeers(addrs []netip.Addr) {
	m := make(map[netip.Addr]bool)
	for _, a := range addrs {
		m[a] = true
	}
	t.noPeers.Store(&m)
}

// mayCall reports whether the remote address can be a peer's (RFC 1122, 3.2.1.3).
func (t *Table) mayCall(k *key) bool {
	m := t.noPeers.Load()
	return k.sane() && (m == nil || !(*m)[k.remoteAddr().Addr()])
}

func (t *Table) listener(addr netip.AddrPort) (policy uint16, ok bool) {
	m := t.listeners.Load()
	if m == nil {
		return 0, false
	}
	policy, ok = (*m)[addr]
	return policy, ok
}

// Adopt tells that a connection of the stack's, accepted or being dialled, is
// the one between local and remote, and its policy. Until Release its flow
// stays, even if it has ended.
func (t *Table) Adopt(local, remote netip.AddrPort, id uint64, policy string, accepted bool) {
	k := keyOf(local, remote)
	sh, h := t.shard(&k)
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f, slot := sh.find(&k, h)
	if f == nil || f.state == TimeWait {
		// Its SYN has not passed: it waits for the neighbour's address, or the
		// handshake was one of too many at once.
		if f != nil {
			t.forget(sh, f, slot)
		}
		f, slot = t.create(sh, &k, h, now)
		if accepted {
			f.flags |= blind
			f.enter(Established, now)
		}
	}
	f.id, f.policy = id, t.numberOf(policy)
	f.flags &^= released
	t.rearm(sh, f, slot, now)
}

// Release tells that the stack has let go of a connection. Its flow goes on
// by itself, to the end of its TIME-WAIT.
func (t *Table) Release(local, remote netip.AddrPort, id uint64) {
	t.known(local, remote, id, func(sh *shard, f *Flow, slot uint32, now instant) {
		if f.has(carried) {
			return // it goes on without the stack
		}
		t.holds.drop(&f.key)
		f.flags |= released
		if !f.state.synchronized() || f.has(rstSeen) && f.state != TimeWait {
			t.forget(sh, f, slot)
			return
		}
		t.rearm(sh, f, slot, now)
	})
}

// Forget drops a flow of whose connection the stack knows nothing any more.
func (t *Table) Forget(local, remote netip.AddrPort) {
	k := keyOf(local, remote)
	sh, h := t.shard(&k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f, slot := sh.find(&k, h); f != nil && f.state != TimeWait && !f.has(carried) {
		t.forget(sh, f, slot)
	}
}

// MayDial reports whether a new connection may use these ports: not while an
// old one is in TIME-WAIT, unless its segments can be told from new ones
// (RFC 7323, 5: PAWS) and a second has passed, or its policy forbids reuse.
func (t *Table) MayDial(local, remote netip.AddrPort) bool {
	k := keyOf(local, remote)
	sh, h := t.shard(&k)
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f, _ := sh.find(&k, h)
	switch {
	case f == nil:
		return true
	case f.has(carried):
		return false
	}
	return f.state != TimeWait || t.mayRedial(f, now)
}

func (t *Table) mayRedial(f *Flow, now instant) bool {
	return t.policy(f.policy).TimeWait.Reuse != "never" && f.has(timestamps) && now.ms-f.progress >= 1000
}

// create makes a flow, of whose handshake nothing is known yet.
func (t *Table) create(sh *shard, k *key, hash uint32, now instant) (*Flow, uint32) {
	f, slot := sh.insert(k, hash)
	f.began, f.progress = now.ns, now.ms
	t.Count.Created.Add(1)
	return f, slot
}

// forget removes a flow and what is counted of it.
func (t *Table) forget(sh *shard, f *Flow, slot uint32) {
	t.uncount(sh, f, slot)
	sh.remove(f, slot)
}

// uncount ends what is counted of the flow's state.
func (t *Table) uncount(sh *shard, f *Flow, slot uint32) {
	if f.counted&countedHalfOpen != 0 {
		t.halfOpen.Add(-1)
	}
	if f.counted&countedTimeWait != 0 {
		t.held[f.policy].Add(-1)
		sh.leaveQueue(f, slot)
	}
	f.counted = 0
}

// recount follows a change of state, and returns the policy whose TIME-WAITs
// are too many now, or -1.
func (t *Table) recount(sh *shard, f *Flow, slot uint32) (full int) {
	want := uint8(0)
	switch f.state {
	case SynReceived:
		want = countedHalfOpen
	case TimeWait:
		want = countedTimeWait
	}
	if f.counted == want {
		return -1
	}
	t.uncount(sh, f, slot)
	f.counted = want
	switch want {
	case countedHalfOpen:
		t.halfOpen.Add(1)
	case countedTimeWait:
		t.Count.TimeWaits.Add(1)
		sh.joinQueue(f, slot)
		if t.held[f.policy].Add(1) > int64(t.policy(f.policy).TimeWait.Max) {
			return int(f.policy)
		}
	}
	return -1
}

// Held counts the flows in TIME-WAIT.
func (t *Table) Held() int {
	n := int64(0)
	for i := range t.rules.Load().list {
		n += t.held[i].Load()
	}
	return int(n)
}

// Close stops the timers. What still passes is noted, but nothing expires.
func (t *Table) Close() {
	t.timing.Lock()
	defer t.timing.Unlock()
	if timer := t.timer.Load(); timer != nil && !t.closed {
		(*timer).Stop()
	}
	t.closed = true
}
