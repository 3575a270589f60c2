package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// progress shows drains as they go on: bars on a terminal, else a line for each
// every second, and nothing if JSON will tell.
type progress struct {
	w           io.Writer
	bars, quiet bool
	lines       int
	said        time.Time
}

func newProgress(c *cli.Context) *progress {
	return &progress{w: c.App.Writer, bars: terminal(c.App.Writer) && !c.Bool("json"), quiet: c.Bool("json")}
}

func (p *progress) show(rows []services.DrainRow, over bool) {
	switch {
	case p.quiet:
	case p.bars:
		p.lines = drawBars(p.w, rows, p.lines, width(p.w))
	case over || time.Since(p.said) >= time.Second:
		p.said = time.Now()
		for _, r := range rows {
			fmt.Fprintln(p.w, drainLine(r))
		}
	}
}

// eachMoment calls look until it is over, or the user has seen enough.
func eachMoment(c *cli.Context, look func(context.Context) (over bool, err error)) error {
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt)
	defer stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		over, err := look(ctx)
		if ctx.Err() != nil {
			return errors.New("no longer waiting; the drain goes on")
		}
		if over || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// awaitDrain shows the progress until nothing is left, and turns it into the
// exit status.
func awaitDrain(c *cli.Context, client *admin.Client, name string) error {
	p := newProgress(c)
	var rows []services.DrainRow
	err := eachMoment(c, func(ctx context.Context) (bool, error) {
		all, err := client.Drains(ctx)
		if err != nil {
			return false, err
		}
		rows = running(all, name)
		over := !slices.ContainsFunc(rows, func(r services.DrainRow) bool { return r.State == "draining" })
		p.show(rows, over)
		return over, nil
	})
	if err == nil && c.Bool("json") {
		err = writeJSON(c, rows)
	}
	if err != nil {
		return err
	}
	var total services.Report
	for _, r := range rows {
		total.Reset, total.Unacked = total.Reset+r.Reset, total.Unacked+r.Unacked
	}
	return status(total)
}

// awaitStop shows the progress until the appliance has ended; the report that it
// leaves has the last word. The drains of before are none of its.
func awaitStop(c *cli.Context, client *admin.Client, begun time.Time) error {
	p := newProgress(c)
	err := eachMoment(c, func(ctx context.Context) (bool, error) {
		all, err := client.Drains(ctx)
		if err != nil {
			return true, nil // it has gone
		}
		p.show(slices.DeleteFunc(running(all, ""), func(r services.DrainRow) bool { return r.State != "draining" && r.Began.Before(begun) }), false)
		return false, nil
	})
	if err != nil {
		return err
	}
	r, err := awaitReport(c.String("state-dir"), begun)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = writeJSON(c, r)
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "stopped in %s: %d clean, %d reset, %d unacked\n", span(r.Took), r.Clean, r.Reset, r.Unacked)
	}
	return errors.Join(err, status(r))
}

// awaitReport reads the report of a stop that has begun then.
func awaitReport(stateDir string, begun time.Time) (r services.Report, err error) {
	info, err := os.Stat(reportFile(stateDir))
	if err == nil && info.ModTime().Before(begun) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return r, fmt.Errorf("the appliance has ended, and has left no report in %s: %w", stateDir, err)
	}
	return loadReport(stateDir)
}

// countsMost is how long the words beside a bar usually are at most.
const countsMost = 72

// drawBars draws a bar for each drain over the ones drawn before, each on one line
// of so many columns: what wraps cannot be drawn over.
func drawBars(w io.Writer, rows []services.DrainRow, before, cols int) (lines int) {
	if before > 0 {
		fmt.Fprintf(w, "\x1b[%dA", before)
	}
	longest := 0
	for _, r := range rows {
		longest = max(longest, len(r.Target.Name()))
	}
	for _, r := range rows {
		name, counts := fmt.Sprintf("%-*s", longest, r.Target.Name()), strings.TrimPrefix(drainCounts(r), "draining, ")
		done := r.Clean + r.Reset + r.Unacked
		fmt.Fprintf(w, "\x1b[2K%s\n", fit(barLine(name, int64(done), int64(done+r.Left), counts, countsMost, cols), cols))
	}
	return len(rows)
}
