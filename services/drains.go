package services

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lastack/lastack/config"
)

// TargetError is the answer about a name that nothing has.
type TargetError struct {
	Name     string
	Services []string
	Backends []string
}

// Error implements error.
func (e *TargetError) Error() string {
	text := fmt.Sprintf("nothing here is called %q; there are the services %s", e.Name, strings.Join(e.Services, ", "))
	if len(e.Backends) > 0 {
		text += ", the backends " + strings.Join(e.Backends, ", ")
	}
	return text + ", and connections by their ID"
}

// place is what a name stands for.
type place struct {
	service Service
	backend netip.AddrPort
	conn    uint64
}

// find resolves the name of what is to drain: "" is every service, NAME one,
// ADDRESS:PORT a backend wherever it stands, NAME/ADDRESS:PORT in that service,
// a number a connection. The error for a name that nothing has is a *TargetError.
func (v *Supervisor) find(name string) ([]place, error) {
	if name == "" {
		var all []place
		for _, s := range v.Services() {
			all = append(all, place{service: s})
		}
		if len(all) == 0 {
			return nil, errors.New("there is no service here, and so nothing to drain")
		}
		return all, nil
	}
	var named []place
	for _, s := range v.Services() {
		if s.Name() == name {
			named = []place{{service: s}} // the newest: one that retires may have had the name
		}
	}
	if named != nil {
		return named, nil
	}
	service, addr, inOne := strings.Cut(name, "/")
	if !inOne {
		service, addr = "", name
	}
	if backend, err := netip.ParseAddrPort(addr); err == nil {
		var all []place
		for _, s := range v.Services() {
			if b, ok := s.(BackendDrainer); ok && (!inOne || s.Name() == service) && b.HasBackend(backend) {
				all = append(all, place{service: s, backend: backend})
			}
		}
		if len(all) > 0 {
			return all, nil
		}
	}
	if id, err := strconv.ParseUint(name, 10, 64); err == nil {
		for _, s := range v.Services() {
			if s.HasConn(id) {
				return []place{{service: s, conn: id}}, nil
			}
		}
	}
	return nil, v.unknown(name)
}

func (v *Supervisor) unknown(name string) error {
	e := &TargetError{Name: name}
	for _, s := range v.Services() {
		e.Services = append(e.Services, s.Name())
		if b, ok := s.(BackendDrainer); ok {
			for _, addr := range b.BackendAddrs() {
				if text := addr.String(); !slices.Contains(e.Backends, text) {
					e.Backends = append(e.Backends, text)
				}
			}
		}
	}
	return e
}

// StartDrain drains what the name stands for, see find; the service stays, and
// Undrain takes it back. A cause of "" is "backend" for one of those and
// "maintenance" for the rest; how tells for a cause how it goes. Of several
// that the name stands for those that drain already are left alone.
func (v *Supervisor) StartDrain(name, cause string, how func(cause string) config.Drain) error {
	places, err := v.find(name)
	if err != nil {
		return err
	}
	return each(places, func(p place) error {
		why := cause
		switch {
		case why != "":
		case p.backend.IsValid():
			why = "backend"
		default:
			why = "maintenance"
		}
		switch d := how(why); {
		case p.conn != 0:
			return p.service.DrainConn(p.conn, d, why)
		case p.backend.IsValid():
			return p.service.(BackendDrainer).DrainBackend(p.backend, d, why)
		default:
			return p.service.StartDrain(d, why)
		}
	})
}

// Undrain takes a drain back. The error wraps ErrNotDraining if nothing that
// the name stands for drains.
func (v *Supervisor) Undrain(name string) error {
	places, err := v.find(name)
	if err != nil {
		return err
	}
	err = each(places, func(p place) error {
		switch {
		case p.conn != 0:
			return errors.New("a connection's drain can't be taken back")
		case p.backend.IsValid():
			return p.service.(BackendDrainer).UndrainBackend(p.backend)
		default:
			return p.service.Undrain()
		}
	})
	if errors.Is(err, ErrNotDraining) {
		return fmt.Errorf("undrain %s: %w", cmp.Or(name, "every service"), err)
	}
	return err
}

// each calls f for all places, and fails if it fails for all.
func each(places []place, f func(place) error) error {
	var first error
	done := false
	for _, p := range places {
		switch err := f(p); {
		case err == nil:
			done = true
		case first == nil:
			first = err
		}
	}
	if done {
		return nil
	}
	return first
}

// Drains lists the drains of all services.
func (v *Supervisor) Drains() []DrainRow {
	rows := []DrainRow{}
	for _, s := range v.Services() {
		rows = append(rows, s.Drains()...)
	}
	slices.SortStableFunc(rows, func(a, b DrainRow) int { return b.Began.Compare(a.Began) })
	return rows
}

// DrainReports are what the same drains left so far.
func (v *Supervisor) DrainReports() []Report {
	all := []Report{}
	for _, s := range v.Services() {
		all = append(all, s.DrainReports()...)
	}
	slices.SortStableFunc(all, func(a, b Report) int { return b.Began.Compare(a.Began) })
	return all
}

// Forecast is what a drain of something would find now.
type Forecast struct {
	Target
	Quiet int `json:"quiet"` // connections that would be closed at once
	Busy  int `json:"busy"`  // that would get until the deadline
}

// Forecast tells what a drain would find.
func (v *Supervisor) Forecast(name string) ([]Forecast, error) {
	places, err := v.find(name)
	if err != nil {
		return nil, err
	}
	all := make([]Forecast, 0, len(places))
	for _, p := range places {
		f := Forecast{Target: Target{Service: p.service.Name(), Conn: p.conn}}
		if p.backend.IsValid() {
			f.Backend = p.backend.String()
		}
		for _, r := range p.service.Conns() {
			switch {
			case p.conn != 0 && r.ID != p.conn, p.backend.IsValid() && r.Backend != p.backend:
			case r.Stage == Relaying.String() && r.Idle >= Quiet && r.ClientInfo.Unacked+r.BackendInfo.Unacked == 0:
				f.Quiet++
			default:
				f.Busy++
			}
		}
		all = append(all, f)
	}
	return all, nil
}
