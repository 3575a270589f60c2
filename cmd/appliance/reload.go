package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/internal/wholefile"
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
	next, err := config.Load(d.conf().File)
	if err != nil {
		return admin.ConfigDiff{}, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	return d.change(next, "reload", admin.Change{})
}

// ApplyConfig implements admin.Source: a text comes into force and becomes the
// file, at once or when it is confirmed.
func (d *daemon) ApplyConfig(name string, text []byte, how admin.Change) (admin.ConfigDiff, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	next, err := config.Parse(name, text)
	if err != nil {
		return admin.ConfigDiff{}, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	next.File = d.conf().File
	return d.change(next, "apply", how)
}

// RollbackConfig implements admin.Source: a configuration of the history comes
// into force and becomes the file. 0 is what was in force before the change that
// waits for its confirmation.
func (d *daemon) RollbackConfig(number int, how admin.Change) (admin.ConfigDiff, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if number == 0 {
		switch {
		case d.ending():
			return admin.ConfigDiff{}, errDraining
		case d.pending == nil:
			return admin.ConfigDiff{}, errors.New("no change waits for its confirmation: name a number of `appliance config history`")
		}
		return d.takeBack("it was rolled back by order")
	}
	_, text, err := d.history().Get(number)
	if err != nil {
		return admin.ConfigDiff{}, err
	}
	next, err := config.Parse(fmt.Sprintf("configuration %d", number), text)
	if err != nil {
		return admin.ConfigDiff{}, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	next.File = d.conf().File
	return d.change(next, fmt.Sprintf("rollback to %d", number), how)
}

// ConfirmConfig implements admin.Source.
func (d *daemon) ConfirmConfig() error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	p := d.pending
	if p == nil {
		return errors.New("no change waits for its confirmation")
	}
	keep := func() error { return d.keepConfig(d.conf(), p.cause, true) }
	if p.restarts {
		keep = func() error { return d.keepTrial(p.cause) }
	}
	if err := keep(); err != nil {
		return err
	}
	p.timer.Stop()
	d.pending = nil
	d.log.Info("the configuration is confirmed", "cause", p.cause)
	return nil
}

// ConfigHistory implements admin.Source.
func (d *daemon) ConfigHistory() ([]history.Entry, error) {
	all, err := d.history().List()
	if all == nil {
		all = []history.Entry{}
	}
	return all, err
}

// ConfigText implements admin.Source: 0 is what is in force.
func (d *daemon) ConfigText(number int) (string, error) {
	if number == 0 {
		return string(d.conf().Text), nil
	}
	_, text, err := d.history().Get(number)
	return string(text), err
}

func (d *daemon) history() history.History {
	return history.In(filepath.Join(d.journalDir(), "history"))
}

// pending is a change that is taken back unless it is confirmed.
type pending struct {
	cause    string
	prev     *config.Config
	by       time.Time
	timer    *time.Timer
	restarts bool // it is a trial, and what was before is in the file
}

// change puts a configuration in force, if nothing speaks against it. One that
// is to be confirmed does not become the file before: a restart takes it back too.
func (d *daemon) change(next *config.Config, cause string, how admin.Change) (admin.ConfigDiff, error) {
	switch {
	case d.ending():
		return admin.ConfigDiff{}, errDraining
	case d.trial != nil:
		return admin.ConfigDiff{}, errors.New("the appliance is about to start with another configuration: nothing is changed")
	case d.pending != nil:
		return admin.ConfigDiff{}, fmt.Errorf("the change before (%s) waits until %s for its confirmation: `appliance config confirm`, or `appliance config rollback`",
			d.pending.cause, d.pending.by.Local().Format(time.TimeOnly))
	}
	diff, err := d.compare(next)
	if err != nil {
		return diff, err
	}
	if err := reloadable(diff); err != nil {
		if how.Restart {
			return d.restart(next, diff, trial{Text: next.Text, Cause: cause, Confirm: how.Confirm})
		}
		return diff, err
	}
	for _, w := range next.Warnings() {
		d.log.Warn(w.Message, "file", fmt.Sprintf("%s:%d:%d", w.File, w.Pos.Line, w.Pos.Column), "key", w.Key)
	}
	if how.Confirm == 0 {
		if err := d.keepConfig(next, cause, cause != "reload"); err != nil {
			return diff, fmt.Errorf("nothing is changed: %w", err)
		}
	}
	prev := d.conf()
	if err := d.putInForce(next); err != nil {
		return diff, fmt.Errorf("the new configuration is in force only in part: %w", err)
	}
	d.log.Info("the configuration has changed", "cause", cause, "changes", len(diff.Changes), "confirm", how.Confirm)
	if how.Confirm > 0 {
		p := &pending{cause: cause, prev: prev, by: time.Now().Add(how.Confirm)}
		p.timer = time.AfterFunc(how.Confirm, func() { d.expire(p) })
		d.pending = p
	}
	return diff, nil
}

// keepConfig makes a configuration the file, if it does not come from there, and
// adds it to the history.
func (d *daemon) keepConfig(c *config.Config, cause string, write bool) error {
	if write {
		mode := fs.FileMode(0o600)
		if info, err := os.Stat(c.File); err == nil {
			mode = info.Mode().Perm()
		}
		if err := wholefile.Write(c.File, c.Text, mode); err != nil {
			return fmt.Errorf("write the configuration: %w", err)
		}
	}
	if _, err := d.history().Add(c.Text, cause, time.Now()); err != nil {
		d.log.Warn("the history has a gap", "error", err)
	}
	return nil
}

// expire takes a change back that nobody has confirmed.
func (d *daemon) expire(p *pending) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.pending != p || d.ending() {
		return
	}
	if _, err := d.takeBack("nobody has confirmed it"); err != nil {
		d.log.Error("the change could not be taken back whole", "error", err)
	}
}

func (d *daemon) takeBack(why string) (admin.ConfigDiff, error) {
	p := d.pending
	if p.restarts {
		return d.takeBackTrial(why)
	}
	p.timer.Stop()
	d.pending = nil
	diff, err := d.compare(p.prev)
	if err == nil {
		err = d.putInForce(p.prev)
	}
	d.log.Warn("the change is taken back", "cause", p.cause, "because", why)
	return diff, err
}

// ending reports whether the process is about to end, or to start again.
func (d *daemon) ending() bool { return d.draining.Load() || d.next != "" || d.asked() }

// endChanges lets nothing change from here on, and ends the wait for a confirmation:
// the process ends, and with it the change.
func (d *daemon) endChanges() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.draining.Store(true)
	if d.pending != nil {
		d.pending.timer.Stop()
	}
}

// ConfigDiff implements admin.Source: what Reload would do.
func (d *daemon) ConfigDiff() (admin.ConfigDiff, error) {
	next, err := config.Load(d.conf().File)
	if err != nil {
		return admin.ConfigDiff{}, err
	}
	return d.compare(next)
}

// live are keys of those sections that count at once.
var live = []string{"admin.ssh.authorized_keys", "admin.ssh.authorized_keys_file", "admin.console.password_hash"}

// reloadable tells what needs a restart.
func reloadable(diff admin.ConfigDiff) error {
	for _, c := range diff.Changes {
		switch c.Section() {
		case "interfaces", "admin", "state", "time":
			if slices.Contains(live, c.Key) {
				continue
			}
			return fmt.Errorf("%s changes, which needs a restart: say --restart (`config apply`, `config rollback`) to have connections drain and the appliance start again with it. Nothing is changed", c.Key)
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
	d.flows.BoundCarried(next.Carried.Max, next.Carried.Full)
	if err := d.stack.SetPolicies(next.Policies); err != nil {
		return err
	}
	how := next.Drain.For("reload")
	before, after := map[string]services.Service{}, map[string]config.Service{}
	for _, c := range next.Services {
		after[c.Name] = d.leases.listening(c)
	}
	maps.DeleteFunc(d.retired, func(s services.Service, _ bool) bool { return s.Phase() == services.Closed })
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
		c = after[c.Name]
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

// ownerName is a name for the flow table, other than the service's while one of
// that name drains, which has its connections there.
func (d *daemon) ownerName(service string) string {
	if d.supervisor == nil {
		return service
	}
	owner := service
	taken := func(s services.Service) bool {
		o, ok := s.(interface{ Owner() string })
		return ok && s.Phase() < services.Closed && o.Owner() == owner
	}
	for n := 2; slices.ContainsFunc(d.supervisor.Services(), taken); n++ {
		owner = fmt.Sprintf("%s/%d", service, n)
	}
	return owner
}

// serving is what a health service tells: new connections are welcome, but while the
// appliance drains, or all of its services do.
func (d *daemon) serving() bool {
	if d.draining.Load() {
		return false
	}
	all := slices.DeleteFunc(slices.Clone(d.supervisor.Services()), func(s services.Service) bool { return s.Type() == "health" })
	return len(all) == 0 || slices.ContainsFunc(all, func(s services.Service) bool { return s.Phase() == services.Serving })
}

// makeService makes the service that the configuration describes.
func (d *daemon) makeService(c config.Service, policy config.Policy) (services.Service, error) {
	env := services.Env{
		Network: network{d.stack, d.log}, Loops: d.loops, Log: d.log, Owner: d.ownerName(c.Name), Patient: true, Serving: d.serving,
	}
	if c.Type == "proxy" {
		return proxy.New(c, policy, env), nil
	}
	return diag.New(c, policy, env)
}
