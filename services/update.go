package services

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// Withdraw begins to stop listening on every address but those to keep: new
// connections are refused there at once, handshakes under way finish, and then
// the address is free. Connections go on.
func (s *Server) Withdraw(keep []netip.AddrPort) {
	s.turning.Lock()
	defer s.turning.Unlock()
	var kept []*door
	for _, d := range s.listening() {
		addr := d.listener.Addr()
		if slices.Contains(keep, addr) {
			kept = append(kept, d)
			continue
		}
		s.network.Refuse(addr, "rst")
		s.carry([]*door{d}, tcpinfo.Relay)
		d.Wake(ReadyEnd)
	}
	s.doors.Store(&kept)
}

// freeWithin is how long an address may take to become free that another
// service has withdrawn from.
const freeWithin = 2 * time.Second

// Update puts other settings in force: new connections go by them, and live ones
// as far as they look at them again. It listens where c says and it does not yet;
// Withdraw ends the rest. After an error the old settings are in force.
func (s *Server) Update(c config.Service, p config.Policy) error {
	s.turning.Lock()
	defer s.turning.Unlock()
	if c.Name != s.name || c.Type != s.kind {
		return fmt.Errorf("service %s of type %s can't become %s of type %s", s.name, s.kind, c.Name, c.Type)
	}
	doors := s.listening()
	var added []*door
	for _, l := range c.Listen {
		for _, addr := range l.Addrs {
			if slices.ContainsFunc(doors, func(d *door) bool { return d.listener.Addr() == addr }) {
				continue
			}
			d, err := s.openDoor(addr, c.Policy, len(doors)+len(added))
			if err != nil {
				for _, d := range added {
					err = errors.Join(err, d.listener.Close())
				}
				return fmt.Errorf("update service %s: listen on %s: %w", s.name, addr, err)
			}
			added = append(added, d)
		}
	}
	s.set.Store(&Settings{Service: c, Policy: p})
	s.ring.resize(ledger(c.Ledger))
	for _, d := range doors {
		d.listener.SetPolicy(c.Policy)
	}
	all := append(slices.Clone(doors), added...)
	s.doors.Store(&all)
	s.opened.Add(len(added))
	draining := s.plan.Load() != nil
	for _, d := range added {
		if draining {
			s.network.Refuse(d.listener.Addr(), "rst")
		}
		d.listener.Notify(func() { d.Wake(ReadyClient) })
	}
	for _, d := range all { // max_conns may be higher
		d.Wake(ReadyStart)
	}
	s.wakeSessions(ReadyTimer) // their limits may be others
	return nil
}

// openDoor listens on an address, also on one that is about to become free.
func (s *Server) openDoor(addr netip.AddrPort, policy string, n int) (*door, error) {
	patient := s.patient || s.Phase() >= Serving
	for end := time.Now().Add(freeWithin); ; time.Sleep(10 * time.Millisecond) {
		l, err := s.network.Listen(addr, policy)
		if err == nil {
			d := &door{server: s, listener: l}
			d.Init(s.loops.At(n%s.loops.Len()), d)
			return d, nil
		}
		if !patient || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return nil, err
		}
	}
}

// listening are the doors that are open for good.
func (s *Server) listening() []*door {
	if p := s.doors.Load(); p != nil {
		return *p
	}
	return nil
}

// resize changes how many connections that ended are remembered; the newest stay.
func (r *endedRing) resize(most int) {
	if most == r.size() {
		return
	}
	newest := r.list()
	r.mu.Lock()
	defer r.mu.Unlock()
	newest = newest[:min(len(newest), most)]
	slices.Reverse(newest)
	r.most, r.rows, r.total = most, newest, len(newest)
}

func (r *endedRing) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}
