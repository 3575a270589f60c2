package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/dhcp"
	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/stack"
)

// leases are the addresses that interfaces have besides those of the file: by
// DHCP and by router advertisements. They come and go while the daemon serves,
// and services that listen on an interface follow.
type leases struct {
	d    *daemon
	ctx  context.Context // of the clients
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu         sync.Mutex // guards the rest; never held while anything is called
	clients    map[string]*dhcp.Client
	held       map[string]dhcp.Lease
	advertised []stack.AddressChange
	begun      bool                   // services are there, to follow
	kept       map[string]*dhcp.Lease // of the run before, as it was at the start
}

func newLeases(d *daemon) *leases {
	l := &leases{d: d, clients: make(map[string]*dhcp.Client), held: make(map[string]dhcp.Lease), kept: make(map[string]*dhcp.Lease)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	for _, card := range d.conf().Interfaces {
		if card.DHCP {
			l.kept[card.Name] = l.recall(card.Name)
		}
	}
	return l
}

// start begins to ask for addresses. The daemon is ready without them: services
// begin to listen as they come.
func (l *leases) start() error {
	l.mu.Lock()
	l.begun = true
	early := len(l.advertised) > 0
	l.mu.Unlock()
	if early {
		l.d.rebind()
	}
	for i, card := range l.d.conf().Interfaces {
		if !card.DHCP {
			continue
		}
		conn, err := l.d.stack.Datagrams(card.Name, 68, 67)
		if err != nil {
			return err
		}
		held, isHeld := l.lease(card.Name)
		kept := &held
		if !isHeld {
			kept = l.kept[card.Name]
		}
		c := dhcp.New(dhcp.Options{
			MAC: l.d.endpoints[i].MAC(), Hostname: hostname(), Conn: conn, Kept: kept, Held: isHeld,
			Holder: &leaseholder{l, card}, Save: func(one *dhcp.Lease) error { return l.remember(card.Name, one) },
			Log: l.d.log.With("interface", card.Name),
		})
		l.mu.Lock()
		l.clients[card.Name] = c
		l.mu.Unlock()
		l.wg.Go(func() { c.Run(l.ctx) })
	}
	return nil
}

// close ends the clients and waits. Leases stay: the next run asks for the same.
func (l *leases) close() {
	l.stop()
	l.wg.Wait()
}

// hostname is what the server is told, "" for none of our own.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "localhost" || name == "(none)" {
		return ""
	}
	return name
}

// link is told of a card's link.
func (l *leases) link(name string, up bool) {
	l.mu.Lock()
	c := l.clients[name]
	l.mu.Unlock()
	if c != nil && up {
		c.LinkUp()
	}
}

func (l *leases) lease(name string) (dhcp.Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.held[name]
	return one, ok
}

// hold notes what an interface has; nil is nothing.
func (l *leases) hold(name string, one *dhcp.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one == nil {
		delete(l.held, name)
		return
	}
	l.held[name] = *one
}

func (l *leases) file(name string) string {
	return filepath.Join(l.d.journalDir(), "lease-"+name+".json")
}

// remember writes a lease down for the next run; nil forgets it.
func (l *leases) remember(name string, one *dhcp.Lease) error {
	if one == nil {
		if err := os.Remove(l.file(name)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(one.Told(time.Now()))
	if err != nil {
		return err
	}
	return history.Replace(l.file(name), text, 0o600)
}

// recall is the lease of a run before, or nil.
func (l *leases) recall(name string) *dhcp.Lease {
	text, err := os.ReadFile(l.file(name))
	if err != nil {
		return nil // there was none
	}
	one := new(dhcp.Lease)
	if err := json.Unmarshal(text, one); err != nil || !one.Prefix.IsValid() || !one.Prefix.Addr().Is4() {
		l.d.log.Warn("the remembered lease cannot be read", "file", l.file(name))
		return nil
	}
	return one.Heard(time.Now())
}

// keptAddr is the address that a card had in the run before by DHCP, if its time
// is not over; or none.
func (l *leases) keptAddr(card config.Interface) netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.kept[card.Name]; one != nil && one.Valid(time.Now()) {
		return one.Prefix.Addr()
	}
	return netip.Addr{}
}

// rebooting reports whether a server is still asked for the lease of before.
func (l *leases) rebooting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.clients {
		if c.Status().State == dhcp.Rebooting {
			return true
		}
	}
	return false
}

// extra are the addresses besides those of the file, by interface.
func (l *leases) extra() map[string][]netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string][]netip.Addr)
	for name, one := range l.held {
		all[name] = append(all[name], one.Prefix.Addr())
	}
	for _, a := range l.advertised {
		all[a.Interface] = append(all[a.Interface], a.Prefix.Addr())
	}
	return all
}

// ntp are the time servers that DHCP servers have told.
func (l *leases) ntp() (all []netip.Addr) {
	for _, card := range l.d.conf().Interfaces {
		if one, ok := l.lease(card.Name); ok {
			all = append(all, one.NTP...)
		}
	}
	return all
}

// listening is a service with the addresses of this moment.
func (l *leases) listening(c config.Service) config.Service { return c.With(l.extra()) }

// addresses are all that an interface has.
func (l *leases) addresses(card config.Interface) []netip.Prefix {
	all := slices.Clone(card.Addresses)
	if one, ok := l.lease(card.Name); ok {
		all = append(all, one.Prefix)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.advertised {
		if a.Interface == card.Name {
			all = append(all, a.Prefix)
		}
	}
	return all
}

// takeOver makes the addresses ours that another process or a suspended run had.
func (l *leases) takeOver(s handedState) {
	for _, card := range l.d.conf().Interfaces {
		one := s.Leases[card.Name]
		if !card.DHCP || one == nil {
			continue
		}
		if one = one.Heard(time.Now()); !one.Valid(time.Now()) {
			continue
		}
		if err := l.d.stack.Take(inStack(card.Name, one, l.d.conf()), true); err != nil {
			l.d.log.Warn("an address from DHCP is not taken over", "error", err)
			continue
		}
		l.hold(card.Name, one)
	}
	for _, a := range s.Advertised {
		if err := l.d.stack.Take(a, true); err != nil {
			l.d.log.Warn("an address from a router advertisement is not taken over", "error", err)
			continue
		}
		l.note(stack.AddressChange{Interface: a.Interface, Prefix: a.Prefix})
	}
}

// handed is what takeOver takes.
func (l *leases) handed(s *handedState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Leases = make(map[string]*dhcp.Lease)
	for name, one := range l.held {
		s.Leases[name] = one.Told(time.Now())
	}
	s.Advertised = l.d.stack.Advertised()
}

// advertise follows what router advertisements do to our addresses.
func (l *leases) advertise(c stack.AddressChange) {
	if !l.note(c) {
		return // start sees it
	}
	l.d.rebind()
	if c.Gone {
		l.d.forsake(c.Prefix.Addr())
	}
}

// note keeps a change, and reports whether services are there to follow.
func (l *leases) note(c stack.AddressChange) (begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advertised = slices.DeleteFunc(l.advertised, func(a stack.AddressChange) bool { return a.Interface == c.Interface && a.Prefix == c.Prefix })
	if !c.Gone {
		l.advertised = append(l.advertised, c)
	}
	return l.begun
}

// inStack is a lease as the stack takes it. A gateway in the file goes before a
// server's.
func inStack(name string, one *dhcp.Lease, c *config.Config) stack.Lease {
	gateway := slices.ContainsFunc(c.Interfaces, func(i config.Interface) bool {
		return slices.ContainsFunc(i.Gateways, netip.Addr.Is4)
	})
	out := stack.Lease{Interface: name, Prefix: one.Prefix}
	for _, r := range one.Routes {
		if r.To.Bits() > 0 || !gateway {
			out.Routes = append(out.Routes, config.Route{To: r.To, Via: r.Via})
		}
	}
	return out
}

// leaseholder uses the address of one interface.
type leaseholder struct {
	l    *leases
	card config.Interface
}

// Take implements dhcp.Holder.
func (h *leaseholder) Take(ctx context.Context, one dhcp.Lease) error {
	d := h.l.d
	if err := h.fits(one); err != nil {
		return err
	}
	lease := inStack(h.card.Name, &one, d.conf())
	if err := d.stack.Unclaimed(ctx, lease); err != nil {
		var used *stack.InUseError
		if errors.As(err, &used) {
			return fmt.Errorf("%w: %w", dhcp.ErrInUse, err)
		}
		return err
	}
	if err := d.stack.Take(lease, false); err != nil {
		return err
	}
	h.l.hold(h.card.Name, &one)
	d.rebind()
	d.wakeTime()
	return nil
}

// fits tells why an address cannot be used beside those that we have, or nil.
func (h *leaseholder) fits(one dhcp.Lease) error {
	for _, card := range h.l.d.conf().Interfaces {
		for _, p := range h.l.addresses(card) {
			switch {
			case p.Addr() == one.Prefix.Addr():
				return fmt.Errorf("the server gives %s, which is our own on %s already", one.Prefix, card.Name)
			case card.Name != h.card.Name && p.Overlaps(one.Prefix):
				return fmt.Errorf("the server gives %s, whose subnet overlaps %s of %s: a packet could not tell which way to go", one.Prefix, p, card.Name)
			}
		}
	}
	return nil
}

// Renewed implements dhcp.Holder.
func (h *leaseholder) Renewed(old, next dhcp.Lease) {
	d := h.l.d
	h.l.hold(h.card.Name, &next)
	if slices.Equal(old.Routes, next.Routes) {
		return
	}
	if err := d.stack.Reroute(inStack(h.card.Name, &old, d.conf()), inStack(h.card.Name, &next, d.conf())); err != nil {
		d.log.Error("the routes from DHCP are not in force", "error", err)
	}
}

// forsakeWithin is how long connections may take to hear that their address goes.
const forsakeWithin = time.Second

// Lose implements dhcp.Holder.
func (h *leaseholder) Lose(one dhcp.Lease, _ string) {
	d := h.l.d
	h.l.hold(h.card.Name, nil)
	d.rebind() // nothing new comes
	d.forsake(one.Prefix.Addr())
	if err := d.stack.GiveUp(inStack(h.card.Name, &one, d.conf())); err != nil {
		d.log.Error("the lost address is still ours", "error", err)
	}
	d.supervisor.Forsake(one.Prefix.Addr()) // those that came in between
}

// forsake ends the connections on an address, and waits until their peers are told.
func (d *daemon) forsake(a netip.Addr) {
	d.hangUp(a)
	end := time.Now().Add(forsakeWithin)
	for n := d.supervisor.Forsake(a); n > 0 && time.Now().Before(end); n = d.supervisor.Forsake(a) {
		time.Sleep(5 * time.Millisecond)
	}
}

// rebind makes services listen on the addresses of this moment.
func (d *daemon) rebind() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.draining.Load() || d.succeededAlready() {
		return // it listens nowhere new
	}
	if err := errors.Join(d.putInForce(d.conf()), d.listenSSH()); err != nil {
		d.log.Error("a service does not listen on all addresses of its interface", "error", err)
	}
}

// status is what an interface's client does, or nil.
func (l *leases) status(name string) *admin.DHCP {
	l.mu.Lock()
	c := l.clients[name]
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	s := c.Status()
	out := &admin.DHCP{State: string(s.State), Tries: s.Tries, Error: s.Last}
	if s.Lease == nil {
		return out
	}
	out.Address, out.Server, out.DNS, out.NTP = s.Lease.Prefix, s.Lease.Server, s.Lease.DNS, s.Lease.NTP
	out.Hostname, out.Domain, out.Acquired, out.Unconfirmed = s.Lease.Hostname, s.Lease.Domain, s.Lease.Acquired, s.Lease.Silent
	for _, r := range s.Lease.Routes {
		if r.To.Bits() == 0 && r.Via.IsValid() {
			out.Routers = append(out.Routers, r.Via)
		}
	}
	if s.Lease.Lasts != dhcp.Forever {
		left := max(0, time.Until(s.Lease.Expires()))
		out.Left = &left
	}
	return out
}
