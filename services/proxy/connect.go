package proxy

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/lastack/lastack/services"
)

// retryPause is the wait before a backend is tried a second time for the same
// client: longer each time, so that a backend that restarts is waited for.
const retryPause = 100 * time.Millisecond

// connect goes on with finding a backend. What the client sends meanwhile
// stays in its receive queue.
func (p *pair) connect(now time.Duration, ready services.Ready) {
	if ready&services.ReadyClient != 0 {
		if err := p.Probe(&p.Client); err != nil {
			p.fail(now, &p.Client, err)
			return
		}
	}
	if plan := p.Plan(); plan != nil {
		if _, deadline := plan.Turn(p.ID()); now >= deadline {
			p.giveUp(now, plan)
			return
		}
	}
	switch {
	case p.Backend.Present():
		p.await(now)
	case now >= p.waitUntil:
		p.dial(now)
	default:
		p.arm(p.waitUntil)
	}
}

// dial starts the next attempt.
func (p *pair) dial(now time.Duration) {
	p.target = p.proxy.choose(now, p.target)
	if p.target == nil {
		p.noBackend(now, errors.New("none is configured"))
		return
	}
	c, err := p.open()
	if err != nil {
		p.missed(now, err)
		return
	}
	p.waitUntil = now + p.proxy.conf().ConnectTimeout
	p.EndsAt(services.BoundConnect, p.waitUntil)
	p.Dialled(c)
	p.await(now)
}

// await looks how the attempt goes.
func (p *pair) await(now time.Duration) {
	switch err := p.Backend.Conn.Established(); {
	case err == nil:
		p.connected(now)
	case err != services.ErrWouldBlock:
		p.Undial()
		p.missed(now, err)
	case now >= p.waitUntil:
		p.Undial()
		p.missed(now, fmt.Errorf("no answer within %s: %w", p.proxy.conf().ConnectTimeout, syscall.ETIMEDOUT))
	default:
		p.arm(p.waitUntil)
	}
}

// missed counts a failed attempt and arranges the next, on the next backend.
func (p *pair) missed(now time.Duration, err error) {
	// A lack of local ports is no fault of the backend.
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		p.proxy.pool.Load().failed(p.target, now, err)
	}
	p.attempts++
	if p.attempts > p.proxy.conf().ConnectRetries {
		p.noBackend(now, fmt.Errorf("connect %s: %w", p.target.addr, err))
		return
	}
	p.waitUntil = now
	if round := p.attempts / max(1, len(p.proxy.pool.Load().backends)); round > 0 {
		p.waitUntil += min(retryPause<<min(round-1, 8), p.proxy.conf().ConnectTimeout)
		p.arm(p.waitUntil)
		return
	}
	p.Wake(services.ReadyStart)
}

// noBackend refuses the client, as no server at all would.
func (p *pair) noBackend(now time.Duration, err error) {
	p.Because(services.NoBackend, fmt.Sprintf("%d attempts, the last: %v", p.attempts, err))
	p.abort(now, services.NoBackend, services.First{Who: "us", How: services.ByRST})
}

// giveUp ends a pair that has no backend at the drain's deadline.
func (p *pair) giveUp(now time.Duration, plan *services.Plan) {
	if p.Backend.Present() {
		p.Undial()
	}
	p.unhold()
	p.finish(now, services.DrainDeadline, plan.FinGrace)
}

func (p *pair) connected(now time.Duration) {
	p.proxy.pool.Load().worked(p.target)
	p.target.active.Add(1)
	p.counted = true
	p.Connected(now)
	if plan := p.target.plan.Load(); plan != nil {
		p.Join(plan) // its drain began while we dialled
	}
	if p.carried() {
		return
	}
	p.bounded()
	p.relay(now, services.ReadyClient|services.ReadyBackend|services.ReadyTimer)
}
