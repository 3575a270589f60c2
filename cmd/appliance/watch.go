package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/connfilter"
	"github.com/lastack/lastack/services"
)

// shortestWatch is how often a listing may be asked for: each takes every
// connection's lock for a moment.
const shortestWatch = 100 * time.Millisecond

// watch shows the connections again and again, in place on a terminal.
func watch(c *cli.Context, filter connfilter.Filter) error {
	every := c.Duration("every")
	if every < shortestWatch {
		return usageErr{fmt.Errorf("--every %s is too often: at least %s", every, shortestWatch)}
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt)
	defer stop()
	redraw := !c.Bool("json") && terminal(c.App.Writer)
	tick := time.NewTicker(every)
	defer tick.Stop()
	seen := &rates{last: make(map[uint64]int64)}
	for {
		if redraw {
			fmt.Fprint(c.App.Writer, "\x1b[H\x1b[2J")
		}
		if !c.Bool("json") {
			fmt.Fprintf(c.App.Writer, "%s\n", time.Now().Format(time.TimeOnly))
		}
		if err := connsOnce(c, filter, seen); err != nil && !errors.Is(err, ctx.Err()) {
			return err
		}
		seen.turn(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// rates remembers how many bytes each connection had carried.
type rates struct {
	last, next map[uint64]int64
	at         time.Time // of last
}

// of is what the connection carried each second since the last round.
func (r *rates) of(row services.Row) string {
	total := row.ToBackend + row.ToClient
	if r.next == nil {
		r.next = make(map[uint64]int64)
	}
	r.next[row.ID] = total
	before, known := r.last[row.ID]
	passed := time.Since(r.at).Seconds()
	if !known || r.at.IsZero() || passed <= 0 {
		return "-"
	}
	return size(int64(float64(total-before)/passed)) + "/s"
}

// turn begins the next round.
func (r *rates) turn(now time.Time) { r.last, r.next, r.at = r.next, nil, now }
