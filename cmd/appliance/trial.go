package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/wholefile"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/services/admin"
)

// A change that needs a restart is tried before it becomes the appliance's own
// file: its text lies in the state directory, the connections drain, and the same
// program begins anew in this process and is told to try it. Only when it serves,
// and the change is confirmed if that was asked for, the file is written. A start
// that fails goes back to the file in the same process. Whatever else becomes of
// that run (it crashes, the power goes, it is stopped, nobody confirms), the next
// one is not told to try anything, and goes by the file, which is as it was.

const trialName = "config.trial"

// tryFlag tells a run that there is a configuration to be tried. Only the run before
// gives it: whoever else starts the program gets what the file says.
const tryFlag = "try"

// trial is a configuration that is tried.
type trial struct {
	Text    []byte        `json:"text"`
	Cause   string        `json:"cause"`
	Confirm time.Duration `json:"confirm_ns"` // 0: it only has to serve
}

func trialPath(dir string) string {
	return filepath.Join(cmp.Or(dir, netif.DefaultStateDir), trialName)
}

func (t *trial) save(dir string) error {
	text, err := json.Marshal(t)
	if err == nil {
		err = wholefile.Write(trialPath(dir), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down what is to be tried: %w", err)
	}
	return nil
}

func forgetTrial(dir string) error {
	if err := os.Remove(trialPath(dir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// takeTrial finds what this run is to try. It returns nil without that; why is then
// what the operator has to know of a change that does not come.
func takeTrial(dir string, told bool) (t *trial, why error) {
	text, err := os.ReadFile(trialPath(dir))
	if errors.Is(err, fs.ErrNotExist) && !told {
		return nil, nil
	}
	t = new(trial)
	if err == nil {
		err = json.Unmarshal(text, t)
	}
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("a change is taken back: what was to be tried cannot be read: %w", err), forgetTrial(dir))
	case !told:
		return nil, errors.Join(fmt.Errorf("the change by %s is taken back: the appliance has ended before it was kept", t.Cause), forgetTrial(dir))
	}
	return t, nil
}

// configToRun reads what this run is told to try, or else the file.
func configToRun(file, stateDir string, told bool) (c *config.Config, t *trial, why, err error) {
	if t, why = takeTrial(stateDir, told); t != nil {
		if c, err = config.Parse(file, t.Text); err == nil {
			return c, t, nil, nil
		}
		why = errors.Join(fmt.Errorf("the change by %s is taken back: %w", t.Cause, err), forgetTrial(stateDir))
	}
	c, err = config.Load(file)
	return c, nil, why, err
}

// restart has everything drain, and begins anew with another configuration. It
// refuses what could be known before to end badly: a card that is not there, and a
// file that would not bring back what is in force.
func (d *daemon) restart(next *config.Config, diff admin.ConfigDiff, t trial) (admin.ConfigDiff, error) {
	for _, i := range next.Interfaces {
		if err := netif.Look(i.Name); err != nil {
			return diff, fmt.Errorf("nothing is changed: %w", err)
		}
	}
	back, err := d.ConfigDiff()
	if err == nil && len(back.Changes) > 0 {
		err = errors.New("it says something else than what is in force: put that back (`appliance config show`) and have the change in another file")
	}
	if err != nil {
		return diff, fmt.Errorf("nothing is changed: %s is what the appliance would go back to: %w", d.conf().File, err)
	}
	if err := checkBinary(d.binary); err != nil {
		return diff, fmt.Errorf("nothing is changed: this program could not start again: %w", err)
	}
	if err := t.save(d.stateDir); err != nil {
		return diff, fmt.Errorf("nothing is changed: %w", err)
	}
	d.toTry = true
	diff.Within = d.startAgain()
	d.log.Info("the configuration changes by a restart: connections drain first", "cause", t.Cause, "changes", len(diff.Changes), "confirm", t.Confirm)
	return diff, nil
}

// startAgain drains, and has this program begin anew. It returns how long the drain
// takes at most.
func (d *daemon) startAgain() time.Duration {
	d.next = d.binary
	how := d.howToStop()
	d.askStop()
	return how.Announce + how.Max
}

// notAgain makes this the end, if another start was to come.
func (d *daemon) notAgain() {
	if d.next == "" {
		return
	}
	d.log.Warn("it does not start again: it was asked to stop once more")
	d.next = ""
	d.giveUpTrial()
}

// giveUpTrial forgets a change that was to be tried by a start which does not come.
func (d *daemon) giveUpTrial() {
	if !d.toTry {
		return
	}
	d.toTry = false
	if err := forgetTrial(d.stateDir); err != nil {
		d.log.Warn("a change that was to be tried is left behind; the next start forgets it", "error", err)
	}
	d.log.Warn("the change that was to be tried is taken back")
}

// tried settles what becomes of a configuration that is tried, once it serves.
func (d *daemon) tried() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	t := d.trial
	d.trial = nil
	if t.Confirm == 0 {
		if err := d.keepTrial(t.Cause); err != nil {
			d.log.Error("the change is in force until the next start, which goes back: " + err.Error())
			return
		}
		d.log.Info("the configuration has changed", "cause", t.Cause)
		return
	}
	p := &pending{cause: t.Cause, by: time.Now().Add(t.Confirm), restarts: true}
	p.timer = time.AfterFunc(t.Confirm, func() { d.expire(p) })
	d.pending = p
	d.log.Warn("a configuration is tried: it is taken back unless it is confirmed", "cause", t.Cause, "confirm", t.Confirm)
}

// takeBackTrial goes back to the file, by another restart. If there is nothing to go
// back to, the trial goes on.
func (d *daemon) takeBackTrial(why string) (admin.ConfigDiff, error) {
	p := d.pending
	diff, err := d.ConfigDiff()
	if err == nil {
		err = checkBinary(d.binary)
	}
	if err == nil {
		err = forgetTrial(d.stateDir)
	}
	if err != nil {
		return diff, fmt.Errorf("the change by %s stays in force: %w", p.cause, err)
	}
	p.timer.Stop()
	d.pending = nil
	diff.Within = d.startAgain()
	d.log.Warn("the change is taken back by a restart: connections drain first", "cause", p.cause, "because", why)
	return diff, nil
}

// keepTrial makes what is tried the appliance's file.
func (d *daemon) keepTrial(cause string) error {
	if err := forgetTrial(d.stateDir); err != nil { // before: no later start may call it taken back
		return err
	}
	return d.keepConfig(d.conf(), cause, true)
}

// untry goes back to the file, after a start that has failed and was undone.
func (d *daemon) untry(why error) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.log.Error("the change is taken back: the appliance does not start with it", "cause", d.trial.Cause, "error", why)
	d.trial = nil
	if err := forgetTrial(d.stateDir); err != nil {
		d.log.Warn("the change that was tried is left behind; the next start forgets it", "error", err)
	}
	own, err := config.Load(d.conf().File)
	if err != nil {
		return err
	}
	d.cfg.Store(own)
	return nil
}
