package flow

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"net/netip"
	"reflect"
	"runtime"
	"time"
	"unsafe"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// A hand-over writes the flows of one process's table for another's: a line of
// JSON, the records as they lie in memory, and a sum over all of it. A Flow holds
// no pointer; Layout tells whether the other process keeps it in the same form.

// handed is the line before the records.
type handed struct {
	Layout   string   `json:"layout"`
	Now      int64    `json:"now"` // nanoseconds of the table
	Wall     int64    `json:"wall"`
	Policies []string `json:"policies"` // by their numbers
	Owners   []string `json:"owners"`   // of carried connections, by their numbers
	Secret   uint64   `json:"secret"`   // of initial sequence numbers and timestamps, which go on
	Epoch    int64    `json:"epoch"`
	Flows    int      `json:"flows"`
}

// Bounds of what Load reads.
const (
	handedLineMost = 1 << 20
	handedMost     = 1 << 26 // flows: some 16 GB
)

const recordSize = int(unsafe.Sizeof(Flow{}))

// Layout names the form of the records that Save writes. A table of another
// layout cannot load them.
func Layout() string {
	h := fnv.New64a()
	layout(h, reflect.TypeFor[Flow](), 0)
	return fmt.Sprintf("%s-%d-%016x", runtime.GOARCH, recordSize, h.Sum64())
}

// layout sums up the names, types and places of all fields.
func layout(h hash.Hash, t reflect.Type, at uintptr) {
	fmt.Fprintf(h, "%s %s %d %d;", t.Name(), t.Kind(), t.Size(), at)
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i)
			fmt.Fprintf(h, "%s:", field.Name)
			layout(h, field.Type, at+field.Offset)
		}
	case reflect.Array:
		layout(h, t.Elem(), at)
	}
}

// record is a flow as bytes.
func record(f *Flow) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(f)), recordSize) }

// goesOver reports whether a flow is worth handing over: handshakes begin anew,
// and what has ended is kept only for a connection that still asks for it.
func (f *Flow) goesOver() bool {
	if f.has(carried) {
		return false // both legs or none: see pairs
	}
	if f.state == Closed {
		return f.id != 0 && !f.has(released)
	}
	return f.state.synchronized() && !f.has(blind)
}

// Save writes every flow that is worth it. No frame may pass meanwhile, and the
// table's clock should stand still.
func (t *Table) Save(w io.Writer) error {
	var all []Flow
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		sh.each(func(f *Flow) {
			if f.goesOver() {
				all = append(all, *f)
			}
		})
		sh.mu.Unlock()
	}
	all = append(all, t.pairs()...)
	rules := t.rules.Load()
	head := handed{Layout: Layout(), Now: t.now().ns, Wall: t.clock.Now().UnixNano(), Policies: make([]string, len(rules.list)),
		Owners: t.ownerNames(), Secret: t.secret, Epoch: t.epoch, Flows: len(all)}
	for name, i := range rules.names {
		head.Policies[i] = name
	}
	line, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("write flows: %w", err)
	}
	sum := fnv.New64a()
	to := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<18)
	to.Write(append(line, '\n')) // Flush tells of errors
	for i := range all {
		to.Write(record(&all[i]))
	}
	if err := to.Flush(); err != nil {
		return fmt.Errorf("write flows: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write flows: %w", err)
	}
	return nil
}

// pairs are the legs of carried connections whose handshakes are over, each
// client's followed by its backend's.
func (t *Table) pairs() (all []Flow) {
	for n := range t.ownerNames() {
		t.eachCarried(uint16(n), func(p *pairing, _ tcpinfo.CarriedRef, _ instant) {
			if p.client.state.synchronized() && p.other.state.synchronized() {
				all = append(all, *p.client, *p.other)
			}
		})
	}
	return all
}

func (t *Table) ownerNames() []string {
	names := []string{}
	if all := t.owners.Load(); all != nil {
		for i := range *all {
			names = append(names, (*all)[i].name)
		}
	}
	return names
}

// Load fills a table that has no flows and was not started with what Save has
// written. cards has the number here of each card there, or -1; gap is the time
// since then that the table's clock does not know of. After an error the table
// is empty. It returns how many flows there are.
func (t *Table) Load(r io.Reader, cards []int, gap time.Duration) (n int, err error) {
	if t.timer.Load() != nil || t.any() {
		return 0, errors.New("load flows: internal error: the table is in use")
	}
	head, all, err := readFlows(r)
	if err != nil {
		return 0, fmt.Errorf("load flows: %w", err)
	}
	then := time.Duration(head.Now) + gap
	t.began, t.born = t.clock.NowMonotonic().Add(-then), then.Nanoseconds()
	t.wall = t.clock.Now().Add(-then)
	policies := make([]uint16, len(head.Policies))
	for i, name := range head.Policies {
		policies[i] = t.numberOf(name)
	}
	t.secret, t.epoch = head.Secret, head.Epoch
	for _, name := range head.Owners {
		t.Own(name, nobody{}, CarrierSettings{}) // until its service comes
	}
	now := t.now()
	for i := 0; i < len(all); i++ {
		f := &all[i]
		known := int(f.card) < len(cards) && cards[f.card] >= 0 && int(f.policy) < len(policies)
		if known {
			f.card, f.policy = uint8(cards[f.card]), policies[f.policy]
		}
		if !f.has(carried) {
			if known && t.take(f, now) {
				n++
			}
			continue
		}
		if i++; i == len(all) || !all[i].has(carried|dialled) {
			return n, errors.New("load flows: the flows are damaged")
		}
		m := &all[i]
		if !known || int(m.card) >= len(cards) || cards[m.card] < 0 || int(m.policy) >= len(policies) || int(f.owner()) >= len(head.Owners) {
			continue
		}
		m.card, m.policy = uint8(cards[m.card]), policies[m.policy]
		if t.takePair(f, m, now) {
			t.lastID = max(t.lastID, f.id)
			n += 2
		}
	}
	return n, nil
}

// LastID is the highest ID of a carried connection that Load has taken.
func (t *Table) LastID() uint64 { return t.lastID }

// nobody owns connections until somebody comes.
type nobody struct{}

func (nobody) Choose(_, _ netip.AddrPort) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
func (nobody) Tried(netip.AddrPort, error)                       {}
func (nobody) Spared(netip.AddrPort)                             {}
func (nobody) Ended(*tcpinfo.Carried)                            {}

// ResetUnowned resets carried connections whose service has not come, because
// the configuration has it no more, and counts them.
func (t *Table) ResetUnowned() (n int) {
	for no, name := range t.ownerNames() {
		if _, none := t.ownerOf(uint16(no)).to.(nobody); !none {
			continue
		}
		var refs []tcpinfo.CarriedRef
		t.Views(name, func(v *tcpinfo.CarriedView) { refs = append(refs, v.Ref) })
		for _, ref := range refs {
			t.End(ref, tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.Stopped})
		}
		n += len(refs)
	}
	return n
}

// takePair puts both legs of a carried connection in. What it was about to end
// for, a drain tells again.
func (t *Table) takePair(client, backend *Flow, now instant) bool {
	p := t.lockBoth(&client.key, &backend.key)
	defer p.unlock()
	if p.f != nil || p.m != nil {
		return false
	}
	put := func(sh *shard, from *Flow) uint32 {
		f, slot := sh.insertCopy(from, uint32(from.key.hash(t.seed)))
		f.flags &^= shut | turning
		return slot
	}
	p.fslot, p.mslot = put(p.fsh, client), put(p.msh, backend)
	p.f, p.m = p.fsh.at(p.fslot), p.msh.at(p.mslot)
	p.client, p.other = p.f, p.m
	p.join()
	p.settle(p.f, now)
	p.settle(p.m, now)
	t.carriedNow.Add(1)
	return true
}

// any reports whether there is a flow.
func (t *Table) any() bool {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n := sh.n
		sh.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// take puts a flow in that was read.
func (t *Table) take(from *Flow, now instant) bool {
	sh, h := t.shard(&from.key)
	sh.mu.Lock()
	if known, _ := sh.find(&from.key, h); known != nil {
		sh.mu.Unlock()
		return false
	}
	f, slot := sh.insertCopy(from, h)
	full := t.recount(sh, f, slot)
	t.rearm(sh, f, slot, now)
	sh.mu.Unlock()
	if full >= 0 {
		t.evict(full)
	}
	return true
}

// insertCopy puts a copy of a flow in, without what is the other table's own.
func (s *shard) insertCopy(from *Flow, hash uint32) (*Flow, uint32) {
	f, slot := s.insert(&from.key, hash)
	*f = *from
	f.hash, f.counted, f.timed = hash, 0, false
	f.due, f.spoke, f.next, f.prev, f.newer, f.older = 0, 0, 0, 0, 0, 0
	return f, slot
}

func readFlows(r io.Reader) (head handed, all []Flow, err error) {
	sum := fnv.New64a()
	from := bufio.NewReaderSize(r, 1<<18)
	line, err := from.ReadSlice('\n')
	if err != nil || len(line) > handedLineMost || json.Unmarshal(line, &head) != nil {
		return head, nil, errors.New("these are no flows")
	}
	sum.Write(line)
	if head.Layout != Layout() {
		return head, nil, fmt.Errorf("the flows are of another form (%s, here it is %s)", head.Layout, Layout())
	}
	if head.Flows < 0 || head.Flows > handedMost || len(head.Policies) > policiesMost || head.Now < 0 {
		return head, nil, errors.New("what is said of the flows cannot be")
	}
	for len(all) < head.Flows {
		var f Flow
		if _, err := io.ReadFull(from, record(&f)); err != nil {
			return head, nil, fmt.Errorf("only %d of %d flows are there", len(all), head.Flows)
		}
		sum.Write(record(&f))
		all = append(all, f)
	}
	var want [8]byte
	if _, err := io.ReadFull(from, want[:]); err != nil || string(sum.Sum(nil)) != string(want[:]) {
		return head, nil, errors.New("the flows are damaged")
	}
	for i := range all {
		if f := &all[i]; f.state >= states || f.endedBy > uint8(len(limitRules)) {
			return head, nil, errors.New("the flows are damaged")
		}
	}
	return head, all, nil
}

// CloseWindows tells every live peer that our window is closed, so that it sends
// nothing while nobody receives. It returns how many were told.
func (t *Table) CloseWindows() int { return t.tellWindows(true) }

// OpenWindows tells them the window that was offered before, so that they go on
// at once.
func (t *Table) OpenWindows() int { return t.tellWindows(false) }

func (t *Table) tellWindows(closed bool) (n int) {
	now := t.now()
	var all []word
	for i := range t.shards {
		sh := &t.shards[i]
		all = all[:0]
		sh.mu.Lock()
		sh.each(func(f *Flow) {
			if !f.outlives() || f.has(peerFinSeen) {
				return // nobody, or somebody who sends no more
			}
			a := f.answer(now)
			if closed {
				a.window = 0
			}
			all = append(all, f.word(a))
		})
		sh.mu.Unlock()
		for i := range all {
			r := &all[i]
			if t.put(r) {
				n++
			}
		}
	}
	return n
}

// HalfOpen counts handshakes that are under way.
func (t *Table) HalfOpen() int { return int(t.halfOpen.Load()) }
