package main

import (
	"fmt"
	"time"
)

// pace sends requests at times fixed beforehand, evenly spaced, each on the
// connection that has been free for longest. If none is free the request waits,
// and that counts: a latency runs from when the request was due, not from when
// it could be sent (else a peer that stalls would also stop the clock:
// coordinated omission).
type pace struct {
	*callers
	free     []int // connections, the one free for longest first
	start    time.Time
	interval float64 // nanoseconds
	next     int     // number of the next request
	total    int     // how many there are in all
	answered int
}

// due is when a request is to be sent, counted from the start.
func (p *pace) due(i int) time.Duration { return time.Duration(float64(i) * p.interval) }

// paced runs l.rate requests per second and gives the latencies of those due
// after the warm-up.
func (l load) paced() (outcome, error) {
	if l.rate <= 0 {
		return outcome{}, fmt.Errorf("rate %g: it must be positive", l.rate)
	}
	cs, err := l.open()
	if err != nil {
		return outcome{}, err
	}
	defer cs.close()
	p := &pace{callers: cs, interval: 1e9 / l.rate, total: int(l.rate * (l.warmup + l.length).Seconds())}
	for i := range cs.all {
		p.free = append(p.free, i)
	}
	latencies, err := p.run(l.warmup, l.length)
	if err != nil {
		return outcome{}, err
	}
	return outcomeOf(latencies, l.length), nil
}

// outcomeOf sorts the latencies.
func outcomeOf(latencies []time.Duration, length time.Duration) outcome {
	sortDurations(latencies)
	return outcome{
		Count: int64(len(latencies)), Length: length,
		P50: percentile(latencies, 50), P99: percentile(latencies, 99), Max: percentile(latencies, 100),
	}
}

// run goes on until every request is answered, or it is clear that the peer
// can't keep up.
func (p *pace) run(warmup, length time.Duration) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, p.total)
	p.start = time.Now()
	giveUp := warmup + length + 5*time.Second
	now := time.Duration(0)
	for p.answered < p.total {
		if err := p.send(now); err != nil {
			return nil, err
		}
		at, err := p.collect(p.timeout(now, giveUp), func(i int) error {
			c := &p.all[i]
			if c.due >= warmup {
				latencies = append(latencies, time.Since(p.start)-c.due)
			}
			p.free = append(p.free, i)
			p.answered++
			return nil
		})
		if err != nil {
			return nil, err
		}
		if now = at.Sub(p.start); now > giveUp {
			return nil, fmt.Errorf("%d of %d requests are still unanswered 5 s after the last was due", p.total-p.answered, p.total)
		}
	}
	return latencies, nil
}

// send sends what is due, as far as connections are free.
func (p *pace) send(now time.Duration) error {
	for p.next < p.total && len(p.free) > 0 && p.due(p.next) <= now {
		c := &p.all[p.free[0]]
		p.free = append(p.free[:0], p.free[1:]...)
		c.due = p.due(p.next)
		p.next++
		if err := c.ask(); err != nil {
			return err
		}
	}
	return nil
}

// timeout is how long nothing can be sent.
func (p *pace) timeout(now, giveUp time.Duration) time.Duration {
	until := giveUp
	if p.next < p.total && len(p.free) > 0 {
		until = p.due(p.next)
	}
	return max(0, until-now)
}
