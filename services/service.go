package services

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/lastack/lastack/config"
)

// Service is something that listens. Its life goes one way, see Phase: Start
// once, then Drain or Close. All methods may be called from any goroutine.
type Service interface {
	// Name is the service's name in the configuration, Type its type.
	Name() string
	Type() string
	// Addrs are the addresses it listens on.
	Addrs() []netip.AddrPort
	Phase() Phase

	// Start listens and returns; on an error nothing is left open.
	Start() error
	// Drain refuses new connections, ends the quiet ones with FIN at once and
	// the busy ones as soon as they are quiet, at the latest at d.Deadline; a
	// peer that doesn't answer our FIN within d.FinGrace is reset. It returns
	// when every connection has ended and its FINs are acknowledged or given
	// up. Canceling ctx makes the deadline now.
	Drain(ctx context.Context, d config.Drain) Report
	// StartDrain begins the same and returns: the service refuses new
	// connections until Undrain. A *DrainingError says that it drains already,
	// ErrNotDraining that there is nothing to take back.
	StartDrain(d config.Drain, cause string) error
	Undrain() error
	// DrainConn drains one connection; ErrUnknown if the service has none of
	// that ID.
	DrainConn(id uint64, d config.Drain, cause string) error
	// Drains lists drains, newest first, and DrainReports what each left so far.
	Drains() []DrainRow
	DrainReports() []Report
	// Withdraw stops listening but on the addresses to keep, Update puts other
	// settings in force. What the new settings leave out, as a backend, drains as
	// how says.
	Withdraw(keep []netip.AddrPort)
	Update(c config.Service, p config.Policy, how config.Drain) error
	Settings() *Settings
	// Save describes every live session while the loops rest; conns are the
	// connections that they hold. Nothing changes. Load makes the sessions again, in
	// a service that serves and whose loops rest; conn finds a connection by the ID
	// it had, or nil. It returns how many sessions live on.
	Save() (s *Saved, conns []Conn)
	Load(s *Saved, conn func(id uint64) Conn) (n int, err error)
	// Close resets what is left and stops listening. It is idempotent.
	Close()

	// Conns lists the live connections, Ended the last that ended, newest first.
	Conns() []Row
	Ended() []Ended
	Counters() Counters
	// HasConn finds a live connection, Left counts the live ones and those that
	// wait for an acknowledgement; neither looks at each, or makes a list.
	HasConn(id uint64) bool
	Left() (active, settling int64)
	// Kill ends a live connection, Probe asks whether its peers live; both
	// return ErrUnknown if the service does not have it.
	Kill(id uint64, how string) error
	// Forsake ends the connections that are on an address of ours, with RST, and
	// returns how many there were.
	Forsake(addr netip.Addr) int
	Probe(ctx context.Context, id uint64) (Probed, error)
}

// BackendDrainer is a Service that has backends, each of which can drain by
// itself. ErrUnknown tells of a backend that the service does not have.
type BackendDrainer interface {
	HasBackend(addr netip.AddrPort) bool
	BackendAddrs() []netip.AddrPort
	DrainBackend(addr netip.AddrPort, d config.Drain, cause string) error
	UndrainBackend(addr netip.AddrPort) error
}

// Env is what services share.
type Env struct {
	Network Network
	Loops   *Loops
	Log     *slog.Logger // nil is silent
	Owner   string       // another name than the service's for the Carrier, because one that drains has that; or ""
	Patient bool         // an address to listen on may be about to become free: wait for it
	Serving func() bool  // what a health service tells; nil is always
}
