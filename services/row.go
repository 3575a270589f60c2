package services

import (
	"net/netip"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Row is a live connection in a listing.
type Row struct {
	ID          uint64          `json:"id"`
	Service     string          `json:"service"`
	Stage       string          `json:"stage"`
	Client      netip.AddrPort  `json:"client"`
	Local       netip.AddrPort  `json:"local"`   // what the client connected to
	Backend     netip.AddrPort  `json:"backend"` // zero without one
	Source      netip.AddrPort  `json:"source"`  // our end toward the backend
	State       string          `json:"state"`   // both sides' RFC 9293 states: "ESTABLISHED/FIN-WAIT-2"
	ToBackend   int64           `json:"to_backend_bytes"`
	ToClient    int64           `json:"to_client_bytes"`
	Opened      time.Time       `json:"opened"`
	Age         time.Duration   `json:"age_ns"`
	Idle        time.Duration   `json:"idle_ns"`    // since bytes last moved
	Connect     time.Duration   `json:"connect_ns"` // until the backend was connected
	Retries     int             `json:"retries"`    // attempts at backends that failed
	Policy      string          `json:"policy"`
	Carrier     tcpinfo.Carrier `json:"carrier,omitempty"`     // of a proxied connection
	Why         string          `json:"carrier_why,omitempty"` // why not a cheaper one
	ClientLife  Life            `json:"client_life"`
	BackendLife Life            `json:"backend_life"`
	ClientInfo  Info            `json:"client_info"`
	BackendInfo Info            `json:"backend_info"`
	Timers      []tcpinfo.Timer `json:"timers"` // of the service; those of each connection are in its info
}

// seen is what of a session must be read under its shard's lock.
type seen struct {
	s       *Session
	conn    Conn // the backend's, nil without one
	backend netip.AddrPort
	why     string
}

// sessions copies the shard's list.
func (sh *shard) sessions(to []seen) []seen {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.first; s != nil; s = s.next {
		to = append(to, seen{s, s.Backend.Conn, s.backend, s.why})
	}
	return to
}

// row describes a session, asking its connections without any lock of ours.
func (v seen) row(now time.Duration) Row {
	s, client := v.s, v.s.Client.Conn
	r := Row{
		ID: s.id, Service: s.server.Name(), Stage: s.Stage().String(),
		Client: client.RemoteAddr(), Local: client.LocalAddr(), Backend: v.backend,
		Policy:     s.server.Settings().Service.Policy,
		ClientInfo: client.Info(), ClientLife: client.Life(),
		Opened: s.loop.Time(s.opened), Age: now - s.opened, Idle: now - s.Moved(),
		Retries: int(s.retries.Load()), Carrier: s.server.relays(), Why: v.why,
	}
	r.State = r.ClientInfo.State
	r.ToClient, r.ToBackend = s.Client.sent.Load(), s.toBackend()
	if v.conn != nil {
		r.BackendInfo, r.BackendLife, r.Source = v.conn.Info(), v.conn.Life(), v.conn.LocalAddr()
		r.State += "/" + r.BackendInfo.State
	}
	r.Timers = s.timers(now)
	r.ClientInfo.Timers = s.Client.Beat.timer(r.ClientInfo.Timers, now, s.Moved())
	if v.conn != nil {
		r.BackendInfo.Timers = s.Backend.Beat.timer(r.BackendInfo.Timers, now, s.Moved())
	}
	if at := s.ready.Load(); at != 0 {
		r.Connect = time.Duration(at) - s.opened
	}
	return r
}
