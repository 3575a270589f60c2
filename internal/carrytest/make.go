package carrytest

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// New makes one schedule. lanes says how many bytes each of the Stage's lanes
// may be given one way by a connection: one that loses much needs long for
// many. The same seed, index and lanes make the same schedule.
func New(seed uint64, index int, lanes []int) *Schedule {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, uint64(index)))}
	m.s = &Schedule{Seed: seed, Index: index, Lane: m.IntN(len(lanes)), FromV6: m.chance(50), ToV6: m.chance(50)}
	m.most = lanes[m.s.Lane]
	m.sides = [2]*Script{&m.s.Client, &m.s.Backend}
	k := m.kind()
	m.s.Kind = k.name
	k.make(m)
	m.details()
	m.ending(k)
	return m.s
}

// maker makes one schedule. Its steps have one order: what waits waits for what
// stands before it alone, so no schedule can stand still.
type maker struct {
	*rand.Rand
	s     *Schedule
	sides [2]*Script
	most  int
}

// The sides.
const (
	client = iota
	backend
)

// kind is a way to make the steps. Kinds have names for people and weights.
type kind struct {
	name   string
	weight int
	make   func(*maker)
	fins   bool // the kind sets the end itself
}

func kinds() []kind {
	return []kind{
		{name: "dialogue", weight: 30, make: func(m *maker) { m.turns(1+m.IntN(12), 16<<10) }},
		{name: "bulk", weight: 12, make: (*maker).bulk},
		{name: "stall", weight: 12, make: (*maker).stall},
		{name: "banner", weight: 12, make: (*maker).banner},
		{name: "eager", weight: 14, make: (*maker).eager},
		{name: "FIN at once", weight: 8, make: (*maker).finAtOnce, fins: true},
		{name: "silent client", weight: 8, make: (*maker).silent, fins: true},
		{name: "nothing", weight: 4, make: func(*maker) {}},
	}
}

func (m *maker) kind() kind {
	all, sum := kinds(), 0
	for _, k := range all {
		sum += k.weight
	}
	at := m.IntN(sum)
	for _, k := range all {
		if at -= k.weight; at < 0 {
			return k
		}
	}
	panic("carrytest: internal error: weights")
}

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

// size is between 1 and most, small ones as often as large ones.
func (m *maker) size(most int) int {
	return int(math.Exp(m.Float64() * math.Log(float64(max(1, min(most, m.most))))))
}

// pause is mostly none, and at times longer than a delayed ACK waits.
func (m *maker) pause() time.Duration {
	switch {
	case m.chance(60):
		return 0
	case m.chance(80):
		return time.Duration(m.IntN(20_000)) * time.Microsecond
	}
	return time.Duration(m.IntN(250)) * time.Millisecond
}

// turns adds steps of either side, in an order.
func (m *maker) turns(n, most int) {
	side := client
	if m.chance(30) {
		side = backend
	}
	for range n {
		m.write(side, m.size(most))
		if m.chance(80) {
			side = 1 - side
		}
	}
}

// write adds a step. What it waits for stands before it.
func (m *maker) write(side, size int) {
	step := Step{Write: size, Wait: m.pause(), Urgent: m.chance(2)}
	if said := m.sides[1-side].total(); said > 0 && m.chance(70) {
		step.Await = said
		if m.chance(25) {
			step.Await = 1 + m.Int64N(said)
		}
	}
	m.sides[side].Out = append(m.sides[side].Out, step)
}

// bulk is much at once, one way or both, in pieces of any size.
func (m *maker) bulk() {
	ways := 1 + m.IntN(3) // a bit for each
	for side := range m.sides {
		if ways&(1<<side) == 0 {
			continue
		}
		for left := m.size(m.most); left > 0; {
			n := min(left, m.size(256<<10))
			m.sides[side].Out = append(m.sides[side].Out, Step{Write: n, Wait: m.pause() / 8})
			left -= n
		}
	}
}

// stall is bulk to somebody who stops reading until the window is closed. A window
// of a few KiB takes one segment each time, and a while between two.
func (m *maker) stall() {
	buffer := 2048 << m.IntN(5)
	m.most = min(m.most, 16*buffer)
	m.bulk()
	for side, s := range m.sides {
		said := m.sides[1-side].total()
		if said == 0 {
			continue
		}
		s.Buffer = buffer
		for range 1 + m.IntN(2) {
			s.Stalls = append(s.Stalls, Stall{After: m.Int64N(said), For: time.Duration(200+m.IntN(1500)) * time.Millisecond})
		}
		slices.SortFunc(s.Stalls, func(a, b Stall) int { return cmp.Compare(a.After, b.After) })
	}
}

// banner is a backend that speaks first.
func (m *maker) banner() {
	m.sides[backend].Out = []Step{{Write: 1 + m.IntN(200)}}
	if m.chance(30) {
		m.sides[backend].Out[0].Write = m.size(64 << 10)
	}
	m.turns(m.IntN(6), 8<<10)
}

// eager is a client whose data come with the handshake.
func (m *maker) eager() {
	m.s.Client.Open = WithACK
	if m.chance(30) {
		m.s.Client.Open = WithSYN
	}
	m.s.Client.Out = []Step{{Write: m.size(32 << 10)}}
	m.turns(m.IntN(6), 8<<10)
}

// finAtOnce is a client that has nothing to say, and says so.
func (m *maker) finAtOnce() {
	if m.chance(60) {
		m.turnsOf(backend, m.IntN(4), 32<<10)
	}
	m.s.Client.End = Ending{How: Fin}
	m.s.Backend.End = Ending{How: Fin, Wait: m.pause()}
	if m.chance(50) {
		m.s.Backend.End.Await = 1
	}
}

// silent is a client that connects and waits.
func (m *maker) silent() {
	m.turnsOf(backend, m.IntN(4), 32<<10)
	if m.chance(50) {
		m.s.Backend.End = Ending{How: Fin, Wait: m.pause()}
		m.s.Client.End = Ending{How: Fin, Wait: m.pause(), Await: m.s.Backend.total() + 1}
		return
	}
	m.s.Client.End = Ending{How: Fin, Wait: time.Duration(m.IntN(400)) * time.Millisecond, Await: m.s.Backend.total()}
	m.s.Backend.End = Ending{How: Fin, Wait: m.pause(), Await: 1}
}

func (m *maker) turnsOf(side, n, most int) {
	for range n {
		m.write(side, m.size(most))
	}
}

// details are what every kind may have.
func (m *maker) details() {
	for _, s := range m.sides {
		s.NoDelay = m.chance(50)
		s.Piece = 1 + m.size(64<<10)
		if s.Buffer == 0 && m.chance(10) {
			s.Buffer = 4096 << m.IntN(5)
		}
	}
}

// ending says how it ends: mostly by two FINs, in either order or crossing.
func (m *maker) ending(k kind) {
	if !k.fins {
		m.fins()
	}
	if !m.chance(20) {
		return
	}
	// One side resets. The other has not finished then, or does not hear of it
	// by anything but the reset.
	breaker, other := m.sides[m.IntN(2)], m.sides[client]
	if breaker == other {
		other = m.sides[backend]
	}
	at := Ending{How: Reset, Wait: m.pause()}
	if said := other.total(); said > 0 && m.chance(60) {
		at.Await = 1 + m.Int64N(said)
	}
	if other.End.Await > breaker.total() { // a FIN that does not come
		other.End.Await = breaker.total()
	}
	if m.chance(35) {
		at.How, at.Then = FinReset, m.pause()
		other.End = Ending{How: Hold}
	}
	breaker.End = at
}

// fins lets one side finish first, and the other at some time.
func (m *maker) fins() {
	first := m.IntN(2)
	one, two := m.sides[first], m.sides[1-first]
	one.End = Ending{How: Fin, Wait: m.pause()}
	if m.chance(50) {
		one.End.Await = two.total()
	}
	two.End = Ending{How: Fin, Wait: m.pause()}
	switch {
	case m.chance(60):
		two.End.Await = one.total() + 1
	case m.chance(50):
		two.End.Await = one.total()
	}
}
