package services

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Stage is how far a session has come.
type Stage uint32

// The stages: a session goes forward only, and may skip any.
const (
	Connecting Stage = iota // looking for a backend
	Relaying                // bytes move, one direction may have ended
	Closing                 // we have sent FIN and wait for the peers'
	Settling                // all FINs seen; some acknowledgement of ours is awaited
)

var stageNames = [...]string{"connecting", "relaying", "closing", "settling"}

// String is the stage's name in listings.
func (s Stage) String() string { return stageNames[s] }

// Session is one accepted connection and what belongs to it, the record that
// listings are made of. It is embedded in what a service makes of the
// connection, which is its Runner. Its loop alone uses it, but for Wake; the
// session ends exactly once, by Settle or Abort.
type Session struct {
	Task
	Client, Backend Side

	own    atomic.Pointer[Plan] // of the drain of its backend, or of itself
	server *Server
	shard  *shard
	id     uint64
	stage  atomic.Uint32
	opened time.Duration
	moved  atomic.Int64  // loop time when bytes last moved
	bound  atomic.Uint64 // see bound.go
	prev   *Session      // in the shard's list, guarded by shard.mu
	next   *Session

	ready    atomic.Int64 // loop time when the backend was connected, 0 before
	retries  atomic.Int32
	backend  netip.AddrPort // last tried, guarded by shard.mu
	why      string         // why it is relayed, guarded by shard.mu
	reason   Reason
	first    First
	detail   string
	ended    bool // Settle or Abort was called
	left     bool // it is off its shard's list
	endedAt  time.Duration
	settling *Session // next in the shard's list of those that settle
}

// ID is the connection's number in logs and listings.
func (s *Session) ID() uint64 { return s.id }

// Opened is when the connection was accepted.
func (s *Session) Opened() time.Duration { return s.opened }

// Stage is how far the session has come.
func (s *Session) Stage() Stage { return Stage(s.stage.Load()) }

// Enter moves the session on to a stage.
func (s *Session) Enter(to Stage) { s.stage.Store(uint32(to)) }

// Moved is when bytes last moved; Touch says that they did.
func (s *Session) Moved() time.Duration { return time.Duration(s.moved.Load()) }

// Touch notes that bytes moved.
func (s *Session) Touch(now time.Duration) { s.moved.Store(int64(now)) }

// Plan is how the session drains, by its own, its backend's or its service's:
// the one with the earliest deadline. It is nil while the session doesn't.
func (s *Session) Plan() *Plan {
	own := s.own.Load()
	if own == handedOver {
		own = nil
	}
	return earlier(s.server.plan.Load(), own)
}

// Join makes the session drain by a plan of its own, unless it has one.
func (s *Session) Join(p *Plan) {
	if s.own.CompareAndSwap(nil, p) {
		s.Wake(ReadyDrain)
	}
}

// Gone reports whether the session has ended: what still wakes it is to be ignored.
func (s *Session) Gone() bool { return s.ended }

// Begin makes what happens on the client's connection wake the session. It
// reports whether the session lives: its server may have been closed since
// the connection was accepted.
func (s *Session) Begin(now time.Duration) bool {
	if s.server.phase.get() == Closed {
		s.Abort(now, Stopped, First{"us", ByRST})
		return false
	}
	s.Client.Conn.Notify(func() { s.Wake(ReadyClient) })
	return true
}

// Relays says why the session's bytes are relayed and not carried more cheaply.
func (s *Session) Relays(why string) {
	if s.shard == nil { // nobody sees it yet
		s.why = why
		return
	}
	s.shard.mu.Lock()
	s.why = why
	s.shard.mu.Unlock()
}

// Dialled makes c the backend's connection, which wakes the session.
func (s *Session) Dialled(c Conn) {
	s.shard.mu.Lock()
	s.Backend.Conn, s.backend = c, c.RemoteAddr()
	s.shard.mu.Unlock()
	c.Notify(func() { s.Wake(ReadyBackend) })
}

// Undial gives up the backend's connection, which failed, to try another.
func (s *Session) Undial() {
	c := s.Backend.Conn
	s.shard.mu.Lock()
	s.Backend.Conn = nil
	s.shard.mu.Unlock()
	c.Abort()
	s.retries.Add(1)
}

// Connected says that the backend's connection may be used.
func (s *Session) Connected(now time.Duration) {
	s.ready.Store(int64(max(now, 1)))
	s.Enter(Relaying)
	s.Touch(now)
}

// Saw keeps who ended the session first, and how.
func (s *Session) Saw(f First) {
	if s.first.Who == "" {
		s.first = f
	}
}

// Because keeps why the session ends, unless that is known already.
func (s *Session) Because(r Reason, detail string) {
	if s.reason == Live {
		s.reason, s.detail = r, detail
	}
}

// toBackend counts the bytes from the client: those passed on, or those a
// service without backends received.
func (s *Session) toBackend() int64 {
	if s.server.proxies {
		return s.Backend.sent.Load()
	}
	return s.Client.received.Load()
}
