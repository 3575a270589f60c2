package admin

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
)

// Status is the state of the whole daemon.
type Status struct {
	Version    string             `json:"version"`
	PID        int                `json:"pid"`
	Config     string             `json:"config"` // path of the file in use
	Started    time.Time          `json:"started"`
	Phase      string             `json:"phase"` // "serving" or "draining"
	Threads    int                `json:"threads"`
	Memory     uint64             `json:"memory_bytes"` // resident
	Goroutines int                `json:"goroutines"`
	Interfaces []Interface        `json:"interfaces"`
	Services   []Service          `json:"services"`
	TCP        map[string]int     `json:"tcp"` // connections by RFC 9293 state
	Refused    Refused            `json:"refused"`
	Table      map[string]uint64  `json:"table"` // what the flow table did, by the names of flow.Counters
	Loops      services.LoopStats `json:"loops"`
	Sweep      *Sweep             `json:"sweep,omitempty"` // nil unless this run began after a crash
	SSH        *SSH               `json:"ssh,omitempty"`   // nil without admin.ssh
	Time       *Time              `json:"time,omitempty"`  // nil without a section time
}

// Time is what NTP servers say.
type Time struct {
	Server  netip.AddrPort `json:"server,omitzero"` // none without an answer so far
	Offset  time.Duration  `json:"offset_ns"`       // to be added to our clock, at At
	RTT     time.Duration  `json:"rtt_ns"`
	Stratum int            `json:"stratum"`
	At      time.Time      `json:"at,omitzero"`
	Sets    bool           `json:"sets"` // the clock is set by it
	Steps   int            `json:"steps"`
	Error   string         `json:"error,omitempty"`
}

// SSH is the command line as it is served on networks.
type SSH struct {
	Listen   []netip.AddrPort  `json:"listen"`
	LoggedIn int               `json:"logged_in"` // now
	Counters map[string]uint64 `json:"counters"`  // by the names of sshd.Counters
}

// Sweep is what has become of the connections that a crash has cut off.
type Sweep struct {
	Found   int           `json:"found"`   // in the journal
	Asked   int           `json:"asked"`   // peers that were sent a segment
	Ended   int           `json:"ended"`   // still believed in it, and were reset
	Gone    int           `json:"gone"`    // knew already
	Silent  int           `json:"silent"`  // did not answer
	Skipped int           `json:"skipped"` // not ours any more, or its ports are in use again
	Left    int           `json:"left"`    // not known yet
	Took    time.Duration `json:"took_ns"` // since the first question
	Over    bool          `json:"over"`
}

// Interface is one claimed network card.
type Interface struct {
	Name      string            `json:"name"`
	Up        bool              `json:"up"`
	MAC       string            `json:"mac"`
	MTU       int               `json:"mtu"`
	Driver    string            `json:"driver"`
	Guard     string            `json:"guard"` // what keeps frames from the kernel
	Addresses []netip.Prefix    `json:"addresses"`
	DHCP      *DHCP             `json:"dhcp,omitempty"` // nil without dhcp: true
	Counters  map[string]uint64 `json:"counters"`       // by the names of netif.Counters and stack.AckCounters
}

// DHCP is what a card's DHCP client does, and the lease it has.
type DHCP struct {
	State       string         `json:"state"`                 // by RFC 2131: "bound", "selecting", ...
	Address     netip.Prefix   `json:"address,omitzero"`      // none without a lease, as all that follows
	Server      netip.Addr     `json:"server,omitzero"`       //
	Routers     []netip.Addr   `json:"routers,omitempty"`     // of default routes
	DNS         []netip.Addr   `json:"dns,omitempty"`         //
	NTP         []netip.Addr   `json:"ntp,omitempty"`         //
	Hostname    string         `json:"hostname,omitempty"`    // that the server gives this box
	Domain      string         `json:"domain,omitempty"`      //
	Acquired    time.Time      `json:"acquired,omitzero"`     //
	Left        *time.Duration `json:"left_ns,omitempty"`     // nil if it never ends
	Unconfirmed bool           `json:"unconfirmed,omitempty"` // it is of a run before, and no server answers
	Tries       int            `json:"tries,omitempty"`       // messages without an answer
	Error       string         `json:"error,omitempty"`       // what went wrong last
}

// Service is one service and its totals.
type Service struct {
	Name     string             `json:"name"`
	Type     string             `json:"type"`
	Policy   string             `json:"policy"`
	Phase    string             `json:"phase"`
	Listen   []netip.AddrPort   `json:"listen"`
	Counters services.Counters  `json:"counters"`
	Backends []proxy.BackendRow `json:"backends,omitempty"`
}

// Refused counts new connections that were turned away while draining.
type Refused struct {
	Reset   uint64 `json:"reset"`
	Ignored uint64 `json:"ignored"`
}

// Source is who knows the answers. Its methods may be called at once from
// several goroutines.
type Source interface {
	Status() Status
	Conns() []services.Row
	Ended() []services.Ended
	Flows() []Flow
	// Kill and Probe return services.ErrUnknown for an ID that no live
	// connection has.
	Kill(id uint64, how string) error
	Probe(ctx context.Context, id uint64) (services.Probed, error)

	// Drain, Undrain and DrainPlan name what drains as the Supervisor does.
	Drain(o DrainOrder) error
	Undrain(target string) error
	DrainPlan(o DrainOrder) (DrainPlan, error)
	Drains() []services.DrainRow
	DrainReports() []services.Report
	// Reload puts the file's difference in force, ConfigDiff only tells it.
	Reload() (ConfigDiff, error)
	ConfigDiff() (ConfigDiff, error)
	// ApplyConfig and RollbackConfig put a text, or one of the history, in force.
	ApplyConfig(name string, text []byte, how Change) (ConfigDiff, error)
	RollbackConfig(number int, how Change) (ConfigDiff, error)
	ConfirmConfig() error
	ConfigHistory() ([]history.Entry, error)
	ConfigText(number int) (string, error)
	// Upgrade hands everything over to the binary at a path, "" is the daemon's
	// own. If its version cannot take connections over they drain, and it starts
	// afterwards; with liveOnly that is an error. After an error all goes on as before.
	Upgrade(path string, liveOnly bool) (Upgraded, error)
	// Suspend saves everything and ends the daemon; the next start goes on. After an
	// error all goes on as before.
	Suspend() (Suspended, error)
	// Fetch gets what an http or https URL names, over the daemon's own stack: a
	// box has no other. size is -1 if the server does not say.
	Fetch(ctx context.Context, url string) (body io.ReadCloser, size int64, err error)
	// Stop makes the daemon drain and end, as SIGTERM does; an error says that
	// it does so already.
	Stop() error
}

// Upgraded tells how a hand-over went.
type Upgraded struct {
	PID         int           `json:"pid"`     // of the new process
	Version     string        `json:"version"` // of its binary
	From        string        `json:"from"`    // the old one's version
	Connections int           `json:"connections"`
	Lost        int           `json:"lost"`     // sessions that could not be made again
	Rested      time.Duration `json:"pause_ns"` // for which nothing was received or sent
	// Drains tells why connections can't go over: they drain now, for up to Within,
	// and then the new version starts in the same process. "" if they went over.
	Drains string        `json:"drains,omitempty"`
	Within time.Duration `json:"within_ns,omitempty"`
}

// Suspended tells what was saved.
type Suspended struct {
	File        string `json:"file"`
	Connections int    `json:"connections"`
	Bytes       int    `json:"bytes"`
}

// ConfigDiff is what differs between the file and what is in force.
type ConfigDiff struct {
	File    string         `json:"file"`
	Changes []ConfigChange `json:"changes"`
	// Within is how long the drain for a restart may take, by which the changes come
	// then; 0 without a restart.
	Within time.Duration `json:"within_ns,omitempty"`
}

// Change is how a configuration comes into force.
type Change struct {
	// Confirm is the time after which it is taken back unless ConfirmConfig comes,
	// counted from when it is in force; 0: it stays.
	Confirm time.Duration
	// Restart lets come by a restart what needs one: connections drain, and the daemon
	// begins anew. It goes back if it does not start. Without Restart that is refused.
	Restart bool
}

// ConfigChange is one of the differences.
type ConfigChange struct {
	config.Change
	Connections int `json:"connections"` // live ones of the service or policy
}

// DrainOrder asks for a drain.
type DrainOrder struct {
	Target   string        // "" is every service
	Cause    string        // whose profile counts; "" chooses
	Deadline time.Duration // instead of the profile's; 0 is that
}

// DrainPlan is what a drain would do.
type DrainPlan struct {
	Cause      string              `json:"cause"`
	Deadline   time.Duration       `json:"deadline_ns"`
	FinGrace   time.Duration       `json:"fin_grace_ns"`
	LingerRead time.Duration       `json:"linger_read_ns"`
	Min        time.Duration       `json:"min_ns"`
	Max        time.Duration       `json:"max_ns"`
	Spread     time.Duration       `json:"spread_ns"`
	Refuse     string              `json:"refuse"`
	Targets    []services.Forecast `json:"targets"`
}

// Flow is one TCP connection as its segments on the wire tell: of a proxied
// connection there are two, and one that services have let go of stays until
// its TIME-WAIT is over.
type Flow struct {
	ID     uint64         `json:"id"` // of the TCP connection, not of the proxied one
	State  string         `json:"state"`
	Policy string         `json:"policy"`
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	Held   bool           `json:"held"` // a service still has it
	Life   services.Life  `json:"life"`
}

// Connection is one connection, either live or ended.
type Connection struct {
	Live  *services.Row   `json:"live,omitempty"`
	Ended *services.Ended `json:"ended,omitempty"`
}
