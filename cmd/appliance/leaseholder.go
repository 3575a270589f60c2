package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/dhcp"
	"github.com/lastack/lastack/stack"
)

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
