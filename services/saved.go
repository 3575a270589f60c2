package services

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Saved is what a service hands to the process that takes its place: its
// sessions and its totals, as JSON. Times are those of the loops, which go on in
// the other process (LoopOptions.Since).
type Saved struct {
	Sessions []SavedSession  `json:"sessions"`
	Counters Counters        `json:"counters"`          // of those that have ended
	Ledger   []Ended         `json:"ledger"`            // newest first
	Private  json.RawMessage `json:"private,omitempty"` // what the kind of service adds, as the health of backends
}

// SavedSession is a session.
type SavedSession struct {
	ID      uint64          `json:"id"`
	Stage   Stage           `json:"stage"`
	Opened  time.Duration   `json:"opened"`
	Moved   time.Duration   `json:"moved"`
	Ready   time.Duration   `json:"ready"`
	Retries int32           `json:"retries"`
	Addr    netip.AddrPort  `json:"addr"` // of the backend
	Bound   uint64          `json:"bound"`
	Reason  Reason          `json:"reason"`
	First   First           `json:"first"`
	Detail  string          `json:"detail,omitempty"`
	Ended   time.Duration   `json:"ended"` // of one that settles
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
	Beat     int64  `json:"beat"`    // Beat.since
	Matched  int    `json:"matched"` // Beat.matched
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
	saved := &Saved{Sessions: []SavedSession{}, Counters: s.tally.counters(), Ledger: s.ring.list()}
	var conns []Conn
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			v := one.keep()
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
		v.Beat, v.Matched = s.Beat.since.Load(), s.Beat.matched
	}
	return v
}

// recall takes in what keep has told, but for the connection.
func (s *Side) recall(v SavedSide) {
	s.EOF, s.FIN, s.died = v.EOF, v.FIN, v.Died
	s.received.Store(v.Received)
	s.sent.Store(v.Sent)
	if s.Beat != nil && v.Matched >= 0 && v.Matched < len(s.Beat.conf.Expect) {
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
	for i := range saved.Sessions {
		v := &saved.Sessions[i]
		client := conn(v.Client.Conn)
		if client == nil {
			continue // the stack has said that it is lost
		}
		if err := s.revive(v, client, conn(v.Backend.Conn)); err != nil {
			return n, fmt.Errorf("connection %d of %s: %w", v.ID, client.RemoteAddr(), err)
		}
		n++
	}
	return n + s.carriage.load(), nil
}

// revive makes a session as it was described.
func (s *Server) revive(v *SavedSession, client, backend Conn) error {
	sh := s.shards[int(s.turn.Add(1))%len(s.shards)]
	one, runner := s.open()
	one.Init(sh.loop, runner)
	one.server, one.shard, one.id, one.opened = s, sh, v.ID, v.Opened
	one.stage.Store(uint32(v.Stage))
	one.Touch(v.Moved)
	one.ready.Store(int64(v.Ready))
	one.retries.Store(v.Retries)
	one.bound.Store(v.Bound)
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
	if v.Backend.Conn != 0 && backend == nil {
		why |= ReadyStop // it was lost on the way
	}
	one.Wake(why)
	return nil
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
