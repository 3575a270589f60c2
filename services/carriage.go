package services

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// carriage is a Server's part in the connections that a Carrier carries for it.
// They cost it no memory: what it has to know of one it asks the Carrier. Drains
// look through all of them, see scan.go.
type carriage struct {
	Task    // scans
	server  *Server
	carrier Carrier // nil: every connection is relayed

	spliced, direct atomic.Int64 // live

	aims   atomic.Pointer[[]aim] // of drains that go on; replaced with mu held
	mu     sync.Mutex            // guards the next
	brings int                   // times that a connection has brought its drain along

	sighted map[*Plan]time.Duration // when a scan last saw a connection of it; owned by the loop, as all below
	todo    []ending                // of a scan, not done yet
	next    time.Duration           // when to scan again
	notYet  time.Duration           // no scan before
	scanned time.Duration           // when the last scan was
	fresh   bool                    // the next one tells all again
	rescan  bool                    // todo was full, or one has arrived since
}

// aim is a drain of one backend's connections, or of one.
type aim struct {
	plan    *Plan
	backend netip.AddrPort
	conn    uint64 // 0: all of the backend
}

func (a *aim) meets(backend netip.AddrPort, id uint64) bool {
	if a.conn != 0 {
		return a.conn == id
	}
	return a.backend == backend
}

// handedOver stands for the plan of a session that a Carrier carries now.
var handedOver = &Plan{}

func newCarriage(s *Server) *carriage {
	c := &carriage{server: s, sighted: make(map[*Plan]time.Duration)}
	c.carrier, _ = s.network.(Carrier)
	c.Init(s.loops.At(s.loops.Len()-1), c)
	return c
}

// Owner is what the Carrier knows the service by: its name, unless another service
// had that name when it was made.
func (s *Server) Owner() string { return s.owner }

// OwnAs makes the service the owner of what the process before has carried by that
// name, before Load.
func (s *Server) OwnAs(owner string) { s.owner = owner }

// Carrier is what can carry connections of the service, or nil.
func (s *Server) Carrier() Carrier { return s.carriage.carrier }

// CarryAll says how connections to every address of the service are carried.
func (s *Server) CarryAll(by tcpinfo.Carrier) { s.carry(s.listening(), by) }

func (s *Server) carry(doors []*door, by tcpinfo.Carrier) {
	if s.carriage.carrier == nil {
		return
	}
	for _, d := range doors {
		s.carriage.carrier.Carry(d.listener.Addr(), s.owner, by)
	}
}

// find finds one of the service's carried connections by its ID.
func (c *carriage) find(id uint64) (ref tcpinfo.CarriedRef, found bool) {
	if c.carrier == nil {
		return ref, false
	}
	return c.carrier.Find(c.server.owner, id)
}

// views is Carrier.Views of the service's connections.
func (c *carriage) views(f func(*tcpinfo.CarriedView)) {
	if c.carrier != nil {
		c.carrier.Views(c.server.owner, f)
	}
}

// list is Carrier.List of them.
func (c *carriage) list(f func(*tcpinfo.Carried)) {
	if c.carrier != nil {
		c.carrier.List(c.server.owner, f)
	}
}

// live counts the connections that are carried.
func (c *carriage) live() int64 { return c.spliced.Load() + c.direct.Load() }

func (c *carriage) count(by tcpinfo.Carrier) *atomic.Int64 {
	if by == tcpinfo.Direct {
		return &c.direct
	}
	return &c.spliced
}

// aimed are the drains of backends and connections that go on.
func (c *carriage) aimed() []aim {
	if p := c.aims.Load(); p != nil {
		return *p
	}
	return nil
}

// own is the plan of a connection besides its service's, or nil.
func (c *carriage) own(backend netip.AddrPort, id uint64) *Plan {
	for _, a := range c.aimed() {
		if a.meets(backend, id) {
			return a.plan
		}
	}
	return nil
}

// planFor is how a carried connection drains, as Session.Plan.
func (c *carriage) planFor(backend netip.AddrPort, id uint64) *Plan {
	return earlier(c.server.plan.Load(), c.own(backend, id))
}

// aimAt makes carried connections drain, unless the drain is taken back.
func (c *carriage) aimAt(a aim) {
	if c.carrier == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.plan.taken() {
		return
	}
	c.brings++
	old := c.aimed()
	if slices.ContainsFunc(old, func(b aim) bool { return b.plan == a.plan }) {
		return
	}
	all := append(slices.Clone(old), a)
	c.aims.Store(&all)
}

// unaim forgets a drain.
func (c *carriage) unaim(p *Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unaimLocked(p)
}

func (c *carriage) unaimLocked(p *Plan) {
	left := slices.DeleteFunc(slices.Clone(c.aimed()), func(a aim) bool { return a.plan == p })
	if len(left) == 0 {
		c.aims.Store(nil)
		return
	}
	c.aims.Store(&left)
}

// Splice gives the session's two connections to the Carrier. The session is gone
// then, without a record: its connection lives on there, in its place. After an
// error nothing has changed.
func (s *Session) Splice() error {
	c := s.server.carriage
	s.Client.Conn.Notify(nil)
	s.Backend.Conn.Notify(nil)
	c.spliced.Add(1) // its end may be told before Splice returns
	if err := c.carrier.Splice(s.Client.Conn, s.Backend.Conn, s.server.owner); err != nil {
		c.spliced.Add(-1)
		s.Client.Conn.Notify(func() { s.Wake(ReadyClient) })
		s.Backend.Conn.Notify(func() { s.Wake(ReadyBackend) })
		return err
	}
	s.ended, s.left = true, true
	s.Disarm()
	s.shard.remove(s)
	if own := s.own.Swap(handedOver); own != nil {
		a := aim{plan: own, backend: s.backend}
		if own.account.target.Conn != 0 {
			a.conn = s.id
		}
		c.aimAt(a)
	}
	c.arrived()
	return nil
}

// PassOn hands the operator's word on that has reached the session after Splice.
func (s *Session) PassOn(r Ready) {
	if s.own.Load() != handedOver {
		return
	}
	switch {
	case r&ReadyKill != 0:
		s.server.carriage.kill(s.id, "rst")
	case r&ReadyEnd != 0:
		s.server.carriage.kill(s.id, "fin")
	}
}

// arrived makes sure that one more connection is seen by the drains that go on.
func (c *carriage) arrived() {
	if c.server.plan.Load() != nil || c.aims.Load() != nil || c.server.phase.get() == Closed {
		c.Wake(ReadyStart)
	}
}

// Admit takes a place under max_conns for a connection that is carried from its
// first SYN on, if the service takes new ones and has one free.
func (s *Server) Admit() bool {
	if s.Phase() != Serving || !s.admit() {
		return false
	}
	s.tally.accepted.Add(1)
	s.live.Add(1)
	s.carriage.direct.Add(1)
	if s.Phase() != Serving {
		s.carriage.Wake(ReadyStart)
	}
	return true
}

// Unadmit takes Admit back: the connection goes another way.
func (s *Server) Unadmit() {
	s.tally.accepted.Add(^uint64(0))
	s.carriage.direct.Add(-1)
	s.unadmit()
	s.goneOne()
}

// Reached says that a connection that is carried from its first SYN on has its
// backend; plan is the backend's, or nil.
func (s *Server) Reached(backend netip.AddrPort, plan *Plan) {
	if plan != nil {
		s.carriage.aimAt(aim{plan: plan, backend: backend})
	}
	s.carriage.arrived()
}

// CarriedEnded takes the record of a carried connection that has ended, and
// gives its place to the next.
func (s *Server) CarriedEnded(v *tcpinfo.Carried) {
	e := s.endedOf(v)
	plan := s.carriage.planFor(v.View.Backend, v.Ref.ID)
	for _, a := range s.carriage.aimed() {
		if a.conn == v.Ref.ID {
			s.carriage.unaim(a.plan)
		}
	}
	if e.Reason == InternalError {
		s.log.Error("a carried connection has ended without a reason", "id", e.ID, "client", e.ClientAddr, "backend", e.BackendAddr)
	}
	s.carriage.count(v.Carrier).Add(-1)
	s.unadmit()
	s.left(e, plan)
}

// kill is Server.Kill.
func (c *carriage) kill(id uint64, how string) error {
	ref, ok := c.find(id)
	if !ok || !c.carrier.End(ref, c.killing(how)) {
		return ErrUnknown
	}
	return nil
}

func (c *carriage) killing(how string) tcpinfo.CarriedEnd {
	policy := &c.server.Settings().Policy
	if how == "rst" || policy.AbortiveClose {
		return tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.Killed}
	}
	limit := policy.FinWait2
	if limit <= 0 {
		limit = asLongAsItTakes
	}
	return tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Killed, Patience: limit, Grace: limit}
}

// asLongAsItTakes stands for a limit that the policy has turned off.
const asLongAsItTakes = 24 * time.Hour

// drain is Server.DrainConn.
func (c *carriage) drain(id uint64, plan *Plan) error {
	if _, ok := c.find(id); !ok {
		return ErrUnknown
	}
	for _, a := range c.aimed() {
		if c.aimsAt(a, id) {
			return a.plan.Again(fmt.Sprintf("connection %d", id), c.server.loops.Now())
		}
	}
	c.server.remember(plan)
	c.aimAt(aim{plan: plan, conn: id})
	c.Wake(ReadyDrain)
	return nil
}

// aimsAt reports whether the drain is one of that connection.
func (c *carriage) aimsAt(a aim, id uint64) (found bool) {
	if a.conn != 0 {
		return a.conn == id
	}
	c.views(func(v *tcpinfo.CarriedView) {
		found = found || v.Ref.ID == id && v.Backend == a.backend
	})
	return found
}

// leftOf counts the connections that a drain of a backend or of one waits for.
func (c *carriage) leftOf(p *Plan) (n int) {
	if !slices.ContainsFunc(c.aimed(), func(a aim) bool { return a.plan.account == p.account }) {
		return 0
	}
	c.views(func(v *tcpinfo.CarriedView) {
		if own := c.own(v.Backend, v.Ref.ID); own != nil && own.account == p.account {
			n++
		}
	})
	return n
}

// load takes the connections in that the process before has left to the Carrier.
func (c *carriage) load() int {
	var n int64
	c.views(func(v *tcpinfo.CarriedView) {
		n++
		c.count(v.Carrier).Add(1)
	})
	c.server.live.Add(n)
	c.server.active.Add(n)
	return int(n)
}

// CarriedBackends counts the carried connections that each backend has.
func (s *Server) CarriedBackends() map[netip.AddrPort]int64 {
	all := make(map[netip.AddrPort]int64)
	s.carriage.views(func(v *tcpinfo.CarriedView) {
		if !v.Connecting {
			all[v.Backend]++
		}
	})
	return all
}
