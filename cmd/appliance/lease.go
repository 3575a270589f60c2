package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/dhcp"
	"github.com/lastack/lastack/internal/wholefile"
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
	return wholefile.Write(l.file(name), text, 0o600)
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
	s.Leases, s.Advertised = make(map[string]*dhcp.Lease), l.d.stack.Advertised()
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, one := range l.held {
		s.Leases[name] = one.Told(time.Now())
	}
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
