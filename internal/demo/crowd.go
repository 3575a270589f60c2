package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// The clients of the last step: what they do when the appliance is stopped.
const (
	idlers     = 120 // wait, after a complete answer
	finishers  = 40  // are in an answer of about a second and a half
	endless    = 40  // are in an answer without end
	crowdSize  = idlers + finishers + endless
	finishPath = "/slow?pieces=75"
)

// crowd is many clients, and how each saw its connection end.
type crowd struct {
	all   *lab.Many
	list  []*client
	owned sync.WaitGroup
	ended [reset + 1]atomic.Int64 // by ending
}

// gather connects the crowd, with every client where it should be.
func gather(ctx context.Context, h *lab.Host) (*crowd, error) {
	all, err := lab.OpenMany(ctx, h, webAddr, crowdSize)
	if err != nil {
		return nil, err
	}
	c := &crowd{all: all}
	for _, conn := range all.Conns() {
		c.list = append(c.list, newClient(conn))
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	for _, one := range c.list {
		c.owned.Go(func() { c.ended[one.await()].Add(1) })
	}
	return c, nil
}

// prepare has everyone ask, those who finish last: their time is running.
func (c *crowd) prepare(ctx context.Context) error {
	stop := closeOn(ctx, c.all)
	defer stop()
	groups := []struct {
		path  string
		count int
	}{{"/", idlers}, {"/slow", endless}, {finishPath, finishers}}
	rest := c.list
	for _, g := range groups {
		errs := make([]error, g.count)
		var asking sync.WaitGroup
		for i, one := range rest[:g.count] {
			asking.Go(func() { errs[i] = one.ask(g.path) })
		}
		asking.Wait()
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("ask for %s: %w", g.path, err)
		}
		rest = rest[g.count:]
	}
	return nil
}

// count is how many saw their connection end so.
func (c *crowd) count(e ending) int { return int(c.ended[e].Load()) }

// fins is how many got FIN.
func (c *crowd) fins() int { return c.count(complete) + c.count(cut) }

// settle waits until each has seen its connection end, for so long at most.
func (c *crowd) settle(within time.Duration) error {
	for _, one := range c.list {
		// One that is closed has seen its end.
		_ = one.conn.SetReadDeadline(time.Now().Add(within))
	}
	c.owned.Wait()
	return c.close()
}

func (c *crowd) close() error {
	err := c.all.Close()
	c.owned.Wait()
	return err
}
