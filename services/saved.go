package services

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lastack/lastack/config"
)

// Saved is what a service hands to the process that takes its place: its
// sessions and its totals, as JSON. Times are those of the loops, which go on in
// the other process (LoopOptions.Since).
type Saved struct {
	Owner    string          `json:"owner"` // Server.Owner
	Sessions []SavedSession  `json:"sessions"`
	Counters Counters        `json:"counters"`          // of those that have ended
	Ledger   []Ended         `json:"ledger"`            // newest first
	Private  json.RawMessage `json:"private,omitempty"` // what the kind of service adds, as the health of backends
	Plans    []SavedPlan     `json:"plans"`             // of drains; the others name them by their places, from 1
	Listed   int             `json:"listed"`            // so many of them are remembered, oldest first
	Whole    int             `json:"whole"`             // by which the whole service drains; 0 is none
	Aims     []SavedAim      `json:"aims"`              // drains of carried connections

	plans []*Plan // of Plans
}

// SavedAim is a drain of the carried connections of a backend, or of one.
type SavedAim struct {
	Plan    int            `json:"plan"`
	Backend netip.AddrPort `json:"backend"`
	Conn    uint64         `json:"conn"`
}

// SavedSession is a session.
type SavedSession struct {
	ID      uint64          `json:"id"`
	Stage   Stage           `json:"stage"`
	Opened  time.Duration   `json:"opened"`
	Moved   time.Duration   `json:"moved"`
	Ready   time.Duration   `json:"ready"`
	Retries int32           `json:"retries"`
	Remote  netip.AddrPort  `json:"remote"` // of the client
	Local   netip.AddrPort  `json:"local"`
	Addr    netip.AddrPort  `json:"addr"` // of the backend
	Bound   uint64          `json:"bound"`
	Reason  Reason          `json:"reason"`
	First   First           `json:"first"`
	Detail  string          `json:"detail,omitempty"`
	Plan    int             `json:"plan,omitempty"` // of its own
	Ended   time.Duration   `json:"ended"`          // of one that settles
	Client  SavedSide       `json:"client"`
	Backend SavedSide       `json:"backend"`
	Why     string          `json:"why,omitempty"`
	Private json.RawMessage `json:"private,omitempty"`
}

// SavedSide is one of its connections.
type SavedSide struct {
	Conn     uint64 `json:"conn"` // its ID; 0 is none
	EOF      bool   `json:"eof"`
	FIN      bool   `json:"fin"`
	Died     How    `json:"died,omitempty"`
	Received int64  `json:"received"`
	Sent     int64  `json:"sent"`
	// Heartbeat is the one that the session began with, which may not be the
	// configuration's any more, Beat and Matched are how far it is.
	Heartbeat *config.Heartbeat `json:"heartbeat,omitempty"`
	Beat      int64             `json:"beat"`    // Beat.since
	Matched   int               `json:"matched"` // Beat.matched
}

// SavedPipe is a Pipe, with the bytes that it holds.
type SavedPipe struct {
	Held  []byte `json:"held,omitempty"`
	Chunk int    `json:"chunk"`
	Cut   bool   `json:"cut"`
	Stop  bool   `json:"stop"`
}

// Keeper is a Runner whose session can go to another process.
type Keeper interface {
	Runner
	// Keep describes what the Runner adds to its Session, Recall takes it in.
	// Both are called while the loops rest.
	Keep() any
	Recall(private json.RawMessage) error
}

// Keep describes the pipe.
func (p *Pipe) Keep() SavedPipe { return SavedPipe{p.held, p.chunk, p.cut, p.stop} }

// Recall makes the pipe as it was described.
func (p *Pipe) Recall(l *Loop, s SavedPipe) {
	p.chunk, p.cut, p.stop = s.Chunk, s.Cut, s.Stop
	if p.chunk > len(l.scratch) || p.chunk < 0 {
		p.chunk = 0 // chosen anew
	}
	if len(s.Held) > 0 {
		p.hold(l, s.Held)
	}
}

// Save implements Service.
func (s *Server) Save() (*Saved, []Conn) {
	saved := &Saved{Owner: s.owner, Sessions: []SavedSession{}, Counters: s.tally.counters(), Ledger: s.ring.list()}
	listed := s.plans()
	slices.Reverse(listed)
	for _, p := range listed {
		saved.Listed = saved.Keep(p)
	}
	saved.Whole = saved.Keep(s.plan.Load())
	for _, a := range s.carriage.aimed() {
		saved.Aims = append(saved.Aims, SavedAim{saved.Keep(a.plan), a.backend, a.conn})
	}
	var conns []Conn
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			v := one.keep()
			if own := one.own.Load(); own != handedOver {
				v.Plan = saved.Keep(own)
			}
			saved.Sessions = append(saved.Sessions, v)
			if v.Client.Conn != 0 {
				conns = append(conns, one.Client.Conn)
			}
			if v.Backend.Conn != 0 {
				conns = append(conns, one.Backend.Conn)
			}
		}
		sh.mu.Unlock()
	}
	return saved, conns
}

// keep describes the session. A dial that is under way is left out: the next
// process begins it anew.
func (s *Session) keep() SavedSession {
	v := SavedSession{
		ID: s.id, Stage: s.Stage(), Opened: s.opened, Moved: s.Moved(), Ready: time.Duration(s.ready.Load()), Retries: s.retries.Load(),
		Remote: s.Client.Conn.RemoteAddr(), Local: s.Client.Conn.LocalAddr(),
		Addr: s.backend, Bound: s.bound.Load(), Reason: s.reason, First: s.first, Detail: s.detail,
		Client: s.Client.keep(), Backend: s.Backend.keep(), Why: s.why,
	}
	if s.ended {
		v.Ended = max(s.endedAt, 1)
	}
	if v.Stage == Connecting {
		v.Backend.Conn = 0
	}
	if k, ok := s.runner.(Keeper); ok && !s.ended {
		v.Private, _ = json.Marshal(k.Keep()) // plain fields
	}
	return v
}

func (s *Side) keep() SavedSide {
	v := SavedSide{EOF: s.EOF, FIN: s.FIN, Died: s.died, Received: s.received.Load(), Sent: s.sent.Load()}
	if s.Conn != nil {
		v.Conn = s.Conn.ID()
	}
	if s.Beat != nil {
		v.Heartbeat, v.Beat, v.Matched = s.Beat.conf, s.Beat.since.Load(), s.Beat.matched
	}
	return v
}

// recall takes in what keep has told, but for the connection.
func (s *Side) recall(v SavedSide) {
	s.EOF, s.FIN, s.died = v.EOF, v.FIN, v.Died
	s.received.Store(v.Received)
	s.sent.Store(v.Sent)
	if s.Beat = nil; v.Heartbeat != nil && v.Matched >= 0 && v.Matched < len(v.Heartbeat.Expect) {
		s.Beat = NewBeat(v.Heartbeat)
		s.Beat.since.Store(v.Beat)
		s.Beat.matched = v.Matched
	}
}

// Load implements Service.
func (s *Server) Load(saved *Saved, conn func(id uint64) Conn) (n int, err error) {
	s.tally.recall(&saved.Counters)
	for i := len(saved.Ledger) - 1; i >= 0; i-- {
		s.ring.add(saved.Ledger[i])
	}
	s.recallPlans(saved)
	for i := range saved.Sessions {
		v := &saved.Sessions[i]
		client := conn(v.Client.Conn)
		if client == nil {
			s.miss(v, saved.Recall(v.Plan))
			continue
		}
		if err := s.revive(v, saved.Recall(v.Plan), client, conn(v.Backend.Conn)); err != nil {
			return n, fmt.Errorf("connection %d of %s: %w", v.ID, client.RemoteAddr(), err)
		}
		n++
	}
	return n + s.carriage.load(), nil
}

// recallPlans goes on with the drain of the whole service, and remembers others.
func (s *Server) recallPlans(saved *Saved) {
	s.turning.Lock()
	defer s.turning.Unlock()
	s.mu.Lock()
	for i := range min(saved.Listed, len(saved.Plans)) {
		s.drains = append(s.drains, saved.Recall(i+1))
	}
	s.mu.Unlock()
	if plan := saved.Recall(saved.Whole); plan != nil && s.phase.enter(Draining) {
		s.plan.Store(plan)
		s.refuse(plan.refuse)
	}
	for _, a := range saved.Aims {
		if plan := saved.Recall(a.Plan); plan != nil {
			s.carriage.aimAt(aim{plan, a.Backend, a.Conn})
		}
	}
	s.carriage.Wake(ReadyDrain)
}

// revive makes a session as it was described; plan is its own.
func (s *Server) revive(v *SavedSession, plan *Plan, client, backend Conn) error {
	sh := s.shards[int(s.turn.Add(1))%len(s.shards)]
	one, runner := s.open()
	one.Init(sh.loop, runner)
	one.server, one.shard, one.id, one.opened = s, sh, v.ID, v.Opened
	one.stage.Store(uint32(v.Stage))
	one.Touch(v.Moved)
	one.ready.Store(int64(v.Ready))
	one.retries.Store(v.Retries)
	one.bound.Store(v.Bound)
	one.own.Store(plan)
	one.backend, one.reason, one.first, one.detail = v.Addr, v.Reason, v.First, v.Detail
	one.why = v.Why
	one.Client.recall(v.Client)
	one.Backend.recall(v.Backend)
	one.Client.Conn, one.Backend.Conn = client, backend
	if k, ok := runner.(Keeper); ok && v.Ended == 0 {
		if err := k.Recall(v.Private); err != nil {
			return err
		}
	}
	s.live.Add(1)
	sh.add(one)
	if v.Ended != 0 {
		one.ended, one.endedAt = true, v.Ended
		sh.settle(one, sh.loop.Now())
		return nil
	}
	s.active.Add(1)
	client.Notify(func() { one.Wake(ReadyClient) })
	if backend != nil {
		backend.Notify(func() { one.Wake(ReadyBackend) })
	}
	why := ReadyStart | ReadyTimer | ReadyClient | ReadyBackend
	if one.Plan() != nil {
		why |= ReadyDrain
	}
	if v.Backend.Conn != 0 && backend == nil {
		one.Because(BackendLost, notMadeAgain)
		why |= ReadyStop
	}
	one.Wake(why)
	return nil
}

const notMadeAgain = "its connection could not be made again after the hand-over"

// miss notes a session whose client's connection could not be made again. Nobody
// takes its backend's, which is reset therefore.
func (s *Server) miss(v *SavedSession, plan *Plan) {
	now := s.loops.Now()
	e := Ended{
		ID: v.ID, Service: s.Name(), Policy: s.Settings().Service.Policy, ClientAddr: v.Remote, Local: v.Local, BackendAddr: v.Addr,
		Reason: ClientLost, Detail: notMadeAgain, First: First{"us", ByError}, Outcome: Reset,
		Client:    EndedSide{Present: true, EOF: v.Client.EOF, FIN: v.Client.FIN, Died: ByError},
		Backend:   EndedSide{Present: v.Backend.Conn != 0, EOF: v.Backend.EOF, FIN: v.Backend.FIN, Reset: v.Backend.Conn != 0},
		ToBackend: v.Backend.Sent, ToClient: v.Client.Sent,
		Opened: s.loops.epoch.Add(v.Opened), Lasted: now - v.Opened, Retries: int(v.Retries),
		Carrier: s.relays(), Why: v.Why,
	}
	if !s.proxies {
		e.ToBackend = v.Client.Received
	}
	if v.Ended != 0 { // it had ended, and only an acknowledgement was awaited
		e.Reason, e.First, e.Lasted = v.Reason, v.First, v.Ended-v.Opened
	}
	if plan == nil {
		plan = s.plan.Load()
	}
	s.live.Add(1)
	s.left(e, plan)
}

// counters are the totals of those that have ended.
func (t *tally) counters() Counters {
	c := Counters{
		Accepted: t.accepted.Load(), AcceptErrors: t.acceptErrors.Load(), Full: t.full.Load(), Ended: make(map[string]uint64),
		ToBackend: t.toBackend.Load(), ToClient: t.toClient.Load(),
	}
	for r := range reasons {
		if n := t.ended[r].Load(); n > 0 {
			c.Ended[r.String()] = n
		}
	}
	return c
}

// recall adds what an earlier process has counted.
func (t *tally) recall(c *Counters) {
	t.accepted.Add(c.Accepted)
	t.acceptErrors.Add(c.AcceptErrors)
	t.full.Add(c.Full)
	t.toBackend.Add(c.ToBackend)
	t.toClient.Add(c.ToClient)
	for r := range reasons {
		t.ended[r].Add(c.Ended[r.String()])
	}
}
