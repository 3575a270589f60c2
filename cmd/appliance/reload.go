package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/services/diag"
	"github.com/lastack/lastack/services/proxy"
)

// Reload implements admin.Source: the difference between the file and what is in
// force comes into force. After an error that finds something wrong with the
// file, nothing is changed.
func (d *daemon) Reload() (admin.ConfigDiff, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.draining.Load() {
		return admin.ConfigDiff{}, errDraining
	}
	next, err := config.Load(d.conf().File)
	if err != nil {
		return admin.ConfigDiff{}, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	diff, err := d.compare(next)
	if err == nil {
		err = reloadable(diff)
	}
	if err != nil {
		return diff, err
	}
	for _, w := range next.Warnings() {
		d.log.Warn(w.Message, "file", fmt.Sprintf("%s:%d:%d", w.File, w.Pos.Line, w.Pos.Column), "key", w.Key)
	}
	if err := d.putInForce(next); err != nil {
		return diff, fmt.Errorf("the new configuration is in force only in part: %w", err)
	}
	d.log.Info("reloaded", "config", next.File, "changes", len(diff.Changes))
	return diff, nil
}

// ConfigDiff implements admin.Source: what Reload would do.
func (d *daemon) ConfigDiff() (admin.ConfigDiff, error) {
	next, err := config.Load(d.conf().File)
	if err != nil {
		return admin.ConfigDiff{}, err
	}
	return d.compare(next)
}

// reloadable tells what needs a restart.
func reloadable(diff admin.ConfigDiff) error {
	for _, c := range diff.Changes {
		switch c.Section() {
		case "interfaces", "admin", "state":
			return fmt.Errorf("%s changes, which needs a restart: cards and sockets are taken at the start. Nothing is changed", c.Key)
		}
	}
	return nil
}

// compare lists what differs, and how many connections each difference is for.
func (d *daemon) compare(next *config.Config) (admin.ConfigDiff, error) {
	changes, err := config.Diff(d.conf(), next)
	if err != nil {
		return admin.ConfigDiff{}, err
	}
	diff := admin.ConfigDiff{File: next.File, Changes: []admin.ConfigChange{}}
	rows := d.Conns()
	for _, c := range changes {
		one := admin.ConfigChange{Change: c}
		for _, r := range rows {
			if c.Section() == "services" && r.Service == c.Name() || c.Section() == "policies" && r.Policy == c.Name() {
				one.Connections++
			}
		}
		diff.Changes = append(diff.Changes, one)
	}
	return diff, nil
}

// putInForce applies a configuration that has been checked, in an order in which
// an address is left by one service before another listens there.
func (d *daemon) putInForce(next *config.Config) error {
	if err := d.stack.SetPolicies(next.Policies); err != nil {
		return err
	}
	how := next.Drain.For("reload")
	before, after := map[string]services.Service{}, map[string]config.Service{}
	for _, c := range next.Services {
		after[c.Name] = c
	}
	for _, s := range d.supervisor.Services() {
		if s.Phase() >= services.Closed || d.retired[s] {
			continue
		}
		c, stays := after[s.Name()]
		if !stays || c.Type != s.Type() {
			d.retired[s] = true
			d.supervisor.Retire(s, how)
			d.log.Info("a service is removed: it drains", "service", s.Name())
			continue
		}
		before[s.Name()] = s
		s.Withdraw(addrsOf(c))
	}
	var errs []error
	for _, c := range next.Services {
		policy := next.Policies[c.Policy]
		if s := before[c.Name]; s != nil {
			errs = append(errs, s.Update(c, policy, how))
			continue
		}
		s, err := d.makeService(c, policy)
		if err == nil {
			err = d.addService(s)
		}
		errs = append(errs, err)
	}
	d.cfg.Store(next)
	return errors.Join(errs...)
}

func (d *daemon) addService(s services.Service) error {
	if err := d.supervisor.Add(s); err != nil {
		return err
	}
	d.log.Info("serving", "service", s.Name(), "type", s.Type(), "listen", s.Addrs())
	return nil
}

func addrsOf(c config.Service) []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range c.Listen {
		all = append(all, l.Addrs...)
	}
	return slices.Clip(all)
}

// makeService makes the service that the configuration describes.
func (d *daemon) makeService(c config.Service, policy config.Policy) (services.Service, error) {
	env := services.Env{Network: network{d.stack}, Loops: d.loops, Log: d.log, Patient: true}
	if c.Type == "proxy" {
		return proxy.New(c, policy, env), nil
	}
	return diag.New(c, policy, env)
}
