package services

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Server is the common part of all Services: it listens, makes a Session of
// each connection, spreads them over the loops, and drains.
type Server struct {
	name    string
	owner   string // for the Carrier
	kind    string
	set     atomic.Pointer[Settings] // Update replaces them
	network Network
	loops   *Loops
	log     *slog.Logger
	open    OpenFunc
	patient bool
	proxies bool

	phase    phaseVar
	plan     atomic.Pointer[Plan]
	active   atomic.Int64 // admitted and not ended
	live     atomic.Int64 // not gone: active or settling
	full     atomic.Bool  // doors wait for one to end
	turn     atomic.Uint32
	shards   []*shard
	carriage *carriage
	doors    atomic.Pointer[[]*door] // changed with turning held

	idle     chan struct{} // capacity 1; sent to when live reaches 0
	stopping chan struct{} // closed by Close
	shutOnce sync.Once
	opened   sync.WaitGroup // doors open

	ring  endedRing
	tally tally

	ending  atomic.Bool // Drain or Close was called: nothing is taken back any more
	turning sync.Mutex  // held while a drain starts or is taken back

	mu     sync.Mutex // guards drains
	drains []*Plan    // that go on, and the last that are over; oldest first
}

// OpenFunc makes a service's state for a connection just accepted. The Runner
// embeds the Session; its first run has ReadyStart and calls Session.Begin.
type OpenFunc func() (*Session, Runner)

// NewServer makes a Server that isn't listening yet.
func NewServer(c config.Service, p config.Policy, env Env, open OpenFunc) *Server {
	s := &Server{
		name: c.Name, owner: cmp.Or(env.Owner, c.Name), kind: c.Type, network: env.Network, loops: env.Loops, log: env.Log, open: open, patient: env.Patient,
		proxies:  c.Type == "proxy",
		ring:     endedRing{most: ledger(c.Ledger)},
		idle:     make(chan struct{}, 1),
		stopping: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("service", c.Name)
	s.set.Store(&Settings{Service: c, Policy: p})
	for i := range s.loops.Len() {
		sh := &shard{server: s}
		sh.Init(s.loops.At(i), sh)
		s.shards = append(s.shards, sh)
	}
	s.carriage = newCarriage(s)
	return s
}

// Settings are what the configuration says of a service, and its policy. They
// are never changed, only replaced.
type Settings struct {
	Service config.Service
	Policy  config.Policy
}

// Settings are those in force. A connection goes by those of the moment.
func (s *Server) Settings() *Settings { return s.set.Load() }

// Name is the service's name in the configuration.
func (s *Server) Name() string { return s.name }

// Type is the service's type in the configuration.
func (s *Server) Type() string { return s.kind }

// Phase is where the service is in its life.
func (s *Server) Phase() Phase { return s.phase.get() }

// Now is the time its plans go by.
func (s *Server) Now() time.Duration { return s.loops.Now() }

// Log is the service's logger.
func (s *Server) Log() *slog.Logger { return s.log }

// Addrs are the addresses it listens on.
func (s *Server) Addrs() []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range s.Settings().Service.Listen {
		all = append(all, l.Addrs...)
	}
	return all
}

// Start listens on every address, or on none.
func (s *Server) Start() error {
	if p := s.Phase(); p != Starting {
		return fmt.Errorf("start service %s: it is %s", s.Name(), p)
	}
	doors, err := s.listen()
	if err != nil {
		s.phase.enter(Closed)
		return err
	}
	s.doors.Store(&doors)
	s.opened.Add(len(doors))
	s.phase.enter(Serving)
	for _, d := range doors {
		d.listener.Notify(func() { d.Wake(ReadyClient) })
	}
	return nil
}

// listen opens a door on every address, or none.
func (s *Server) listen() ([]*door, error) {
	var doors []*door
	for i, addr := range s.Addrs() {
		d, err := s.openDoor(addr, s.Settings().Service.Policy, i)
		if err != nil {
			for _, d := range doors {
				err = errors.Join(err, d.listener.Close())
			}
			return nil, fmt.Errorf("start service %s on %s: %w", s.Name(), addr, err)
		}
		doors = append(doors, d)
	}
	return doors, nil
}

// admit reserves a place under max_conns.
func (s *Server) admit() bool {
	for {
		limit := int64(s.Settings().Service.MaxConns)
		if n := s.active.Add(1); limit <= 0 || n <= limit {
			return true
		}
		s.active.Add(-1)
		if !s.full.Swap(true) {
			s.tally.full.Add(1)
		}
		// One may have ended before it could see that doors wait.
		if s.active.Load() >= limit || !s.full.CompareAndSwap(true, false) {
			return false
		}
	}
}

// unadmit gives a place back and lets waiting doors go on.
func (s *Server) unadmit() {
	s.active.Add(-1)
	if s.full.Load() && s.full.Swap(false) {
		for _, d := range s.listening() {
			d.Wake(ReadyStart)
		}
	}
}

// adopt makes a session of an admitted connection, on the next loop.
func (s *Server) adopt(c Conn) {
	sh := s.shards[int(s.turn.Add(1))%len(s.shards)]
	session, runner := s.open()
	session.Init(sh.loop, runner)
	session.server, session.shard = s, sh
	session.Client.Conn, session.id = c, c.ID()
	session.opened = sh.loop.Now()
	session.Touch(session.opened)
	s.tally.accepted.Add(1)
	s.live.Add(1)
	sh.add(session)
	session.Wake(ReadyStart)
}

// left takes note of a session that is gone.
func (s *Server) left(e Ended, plan *Plan) {
	s.tally.add(&e)
	s.ring.add(e)
	if plan != nil {
		plan.account.ended(e, s.loops.Now())
	}
	s.goneOne()
}

// goneOne tells who waits for the last connection.
func (s *Server) goneOne() {
	if s.live.Add(-1) > 0 {
		return
	}
	select {
	case s.idle <- struct{}{}:
	default: // whoever waits is told already
	}
}

// Conns lists the live connections.
func (s *Server) Conns() []Row {
	var all []seen
	for _, sh := range s.shards {
		all = sh.sessions(all)
	}
	now := s.loops.Now()
	rows := make([]Row, len(all), len(all)+int(max(s.carriage.live(), 0)))
	for i, v := range all {
		rows[i] = v.row(now)
	}
	s.carriage.list(func(v *tcpinfo.Carried) { rows = append(rows, s.rowOfCarried(v, now)) })
	return rows
}

// HasConn reports whether a connection of that ID lives.
func (s *Server) HasConn(id uint64) bool {
	if s.session(id) != nil {
		return true
	}
	_, ok := s.carriage.find(id)
	return ok
}

// Left counts the connections that have not ended, and those that have but for
// an acknowledgement.
func (s *Server) Left() (active, settling int64) {
	active = s.active.Load()
	return active, max(0, s.live.Load()-active)
}

// Ended lists the last connections that ended, newest first.
func (s *Server) Ended() []Ended { return s.ring.list() }

// Counters are the service's totals.
func (s *Server) Counters() Counters {
	c := s.tally.counters()
	c.Active, c.Settling = s.Left()
	var all []seen
	for _, sh := range s.shards {
		all = sh.sessions(all)
	}
	for _, v := range all {
		c.ToBackend += v.s.toBackend()
		c.ToClient += v.s.Client.sent.Load()
	}
	if s.carriage.carrier == nil {
		return c
	}
	spliced, direct := max(s.carriage.spliced.Load(), 0), max(s.carriage.direct.Load(), 0)
	c.Carried = map[tcpinfo.Carrier]int64{tcpinfo.Relay: max(c.Active-spliced-direct, 0), tcpinfo.Splice: spliced, tcpinfo.Direct: direct}
	s.carriage.list(func(v *tcpinfo.Carried) {
		c.ToBackend += v.Backend.Sent
		c.ToClient += v.Client.Sent
	})
	return c
}
