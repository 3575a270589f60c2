package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/wholefile"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// how is the drain for an order: the profile of its cause, with what the order
// says itself.
func (d *daemon) how(o admin.DrainOrder) func(cause string) config.Drain {
	return func(cause string) config.Drain {
		how := d.conf().Drain.For(cause)
		if o.Deadline > 0 {
			how.Deadline = o.Deadline
			how.Max = max(how.Max, o.Deadline+how.FinGrace)
			how.Spread = min(how.Spread, o.Deadline)
		}
		return how
	}
}

func knownCause(cause string) error {
	if cause == "" || slices.Contains(config.DrainCauses, cause) {
		return nil
	}
	return fmt.Errorf("there is no drain profile %q; there are %v", cause, config.DrainCauses)
}

// Drain implements admin.Source.
func (d *daemon) Drain(o admin.DrainOrder) error {
	if err := knownCause(o.Cause); err != nil {
		return err
	}
	if d.draining.Load() {
		return errDraining
	}
	err := d.supervisor.StartDrain(o.Target, o.Cause, d.how(o))
	if err == nil {
		d.log.Info("draining by order", "target", nameOf(o.Target), "cause", o.Cause)
	}
	return err
}

var errDraining = errors.New("the whole appliance drains already, and ends then: nothing is changed")

// Undrain implements admin.Source.
func (d *daemon) Undrain(target string) error {
	err := d.supervisor.Undrain(target)
	if err == nil {
		d.log.Info("a drain is taken back", "target", nameOf(target))
	}
	return err
}

func nameOf(target string) string {
	if target == "" {
		return "every service"
	}
	return target
}

// DrainPlan implements admin.Source.
func (d *daemon) DrainPlan(o admin.DrainOrder) (admin.DrainPlan, error) {
	if err := knownCause(o.Cause); err != nil {
		return admin.DrainPlan{}, err
	}
	targets, err := d.supervisor.Forecast(o.Target)
	if err != nil {
		return admin.DrainPlan{}, err
	}
	cause := o.Cause
	if cause == "" {
		cause = "maintenance"
		if targets[0].Backend != "" {
			cause = "backend"
		}
	}
	how := d.how(o)(cause)
	return admin.DrainPlan{
		Cause: cause, Deadline: how.Deadline, FinGrace: how.FinGrace, LingerRead: how.LingerRead, Min: how.Min, Max: how.Max,
		Spread: how.Spread, Refuse: how.Refuse, Targets: targets,
	}, nil
}

// Drains implements admin.Source.
func (d *daemon) Drains() []services.DrainRow { return d.supervisor.Drains() }

// DrainReports implements admin.Source.
func (d *daemon) DrainReports() []services.Report { return d.supervisor.DrainReports() }

// Stop implements admin.Source.
func (d *daemon) Stop() error {
	if d.draining.Load() {
		return errDraining
	}
	d.askStop()
	return nil
}

// reportFile is where the report of the last stop is.
func reportFile(stateDir string) string { return filepath.Join(stateDir, "drain-report.json") }

// saveReport writes the report of the drain that ends the process, whole or not
// at all.
func saveReport(stateDir string, r services.Report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("save the drain report: %w", err)
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("save the drain report: %w", err)
	}
	if err := wholefile.Write(reportFile(stateDir), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the drain report: %w", err)
	}
	return nil
}

// loadReport reads it; the error wraps fs.ErrNotExist if there is none.
func loadReport(stateDir string) (services.Report, error) {
	var r services.Report
	text, err := os.ReadFile(reportFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("no appliance runs, and none has left a report in %s: %w", stateDir, fs.ErrNotExist)
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s is no drain report: %w", reportFile(stateDir), err)
	}
	return r, nil
}
