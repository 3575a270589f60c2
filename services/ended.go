package services

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Outcome is how well a connection ended.
type Outcome string

// The outcomes.
const (
	Clean   Outcome = "clean"   // both FINs both ways, all acknowledged; or a peer reset it
	Reset   Outcome = "reset"   // we had to reset it
	Unacked Outcome = "unacked" // a FIN of ours was never acknowledged
)

// EndedSide is one side of a connection that ended.
type EndedSide struct {
	Present  bool   `json:"present"`
	State    string `json:"state"` // when it was let go
	EOF      bool   `json:"eof"`   // the peer's FIN was read
	FIN      bool   `json:"fin"`   // ours was sent
	FinAcked bool   `json:"fin_acked"`
	Reset    bool   `json:"reset"`          // we sent RST
	Died     How    `json:"died,omitempty"` // it ended otherwise: the peer's RST, a timeout
	Life     Life   `json:"life"`           // as far as it went while the session held it
}

// Ended is a connection that has ended, and why.
type Ended struct {
	ID          uint64          `json:"id"`
	Service     string          `json:"service"`
	Policy      string          `json:"policy"`
	ClientAddr  netip.AddrPort  `json:"client"`
	Local       netip.AddrPort  `json:"local"`
	BackendAddr netip.AddrPort  `json:"backend"`
	Reason      Reason          `json:"reason"`
	Detail      string          `json:"detail,omitempty"`
	First       First           `json:"first"`
	Outcome     Outcome         `json:"outcome"`
	Client      EndedSide       `json:"client_side"`
	Backend     EndedSide       `json:"backend_side"`
	ToBackend   int64           `json:"to_backend_bytes"`
	ToClient    int64           `json:"to_client_bytes"`
	Opened      time.Time       `json:"opened"`
	Lasted      time.Duration   `json:"lasted_ns"`
	Connect     time.Duration   `json:"connect_ns"`
	Retries     int             `json:"retries"`
	Carrier     tcpinfo.Carrier `json:"carrier,omitempty"`     // of a proxied connection
	Why         string          `json:"carrier_why,omitempty"` // why not a cheaper one
}

// record describes the session as it ends, before its connections are let go.
func (s *Session) record() Ended {
	client := s.Client.Conn
	e := Ended{
		ID: s.id, Service: s.server.Name(), Policy: s.server.Settings().Service.Policy,
		ClientAddr: client.RemoteAddr(), Local: client.LocalAddr(), BackendAddr: s.backend,
		Reason: s.reason, Detail: s.detail, First: s.first,
		Client: s.Client.end(), Backend: s.Backend.end(),
		ToBackend: s.toBackend(), ToClient: s.Client.sent.Load(),
		Opened: s.loop.Time(s.opened), Lasted: s.endedAt - s.opened,
		Retries: int(s.retries.Load()), Carrier: s.server.relays(), Why: s.why,
	}
	if at := s.ready.Load(); at != 0 {
		e.Connect = time.Duration(at) - s.opened
	}
	return e
}

func (s *Side) end() EndedSide {
	if s.Conn == nil {
		return EndedSide{}
	}
	return EndedSide{Present: true, State: s.Conn.State(), EOF: s.EOF, FIN: s.FIN, FinAcked: s.Conn.FinAcked()}
}

// let takes note of how a side was let go of; its life has the segments of that.
func (e *EndedSide) let(side *Side) {
	e.Reset, e.Died = side.cut, side.died
	if side.Present() {
		e.Life = side.Conn.Life()
	}
}

// ledger is how many connections that ended a configuration wants remembered.
func ledger(n int) int {
	if n == 0 {
		return 1024 // a few hundred kilobytes
	}
	return max(n, 0)
}

// endedRing keeps the last connections that ended: the ledger.
type endedRing struct {
	most  int
	mu    sync.Mutex // guards all below
	rows  []Ended
	total int
}

func (r *endedRing) add(e Ended) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.most <= 0:
		return
	case len(r.rows) < r.most:
		r.rows = append(r.rows, e)
	default:
		r.rows[r.total%r.most] = e
	}
	r.total++
}

// list returns them, newest first.
func (r *endedRing) list() []Ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Ended, 0, len(r.rows))
	for i := range r.rows {
		out = append(out, r.rows[(r.total-1-i)%len(r.rows)])
	}
	return out
}

// Counters are a service's totals since it was made.
type Counters struct {
	Accepted     uint64                    `json:"accepted"`
	AcceptErrors uint64                    `json:"accept_errors"`
	Active       int64                     `json:"active"`   // not ended
	Settling     int64                     `json:"settling"` // ended, an acknowledgement is awaited
	Ended        map[string]uint64         `json:"ended"`    // by reason
	ToBackend    int64                     `json:"to_backend_bytes"`
	ToClient     int64                     `json:"to_client_bytes"`
	Full         uint64                    `json:"full"`              // times max_conns was reached
	Carried      map[tcpinfo.Carrier]int64 `json:"carried,omitempty"` // active ones by what carries them, where the network can carry
}

// tally is what Counters are made of.
type tally struct {
	accepted, acceptErrors, full atomic.Uint64
	ended                        [reasons]atomic.Uint64
	toBackend, toClient          atomic.Int64 // of those that have ended
}

func (t *tally) add(e *Ended) {
	t.ended[e.Reason].Add(1)
	t.toBackend.Add(e.ToBackend)
	t.toClient.Add(e.ToClient)
}
