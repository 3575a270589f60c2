package proxy

import (
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

// beat makes the pair ask the sides that h names.
func (p *pair) beat(h *config.Heartbeat) {
	if h.Asks("client") {
		p.Client.Beat = services.NewBeat(h)
	}
	if h.Asks("backend") {
		p.Backend.Beat = services.NewBeat(h)
	}
}

// ask asks the peers that are due and ends a pair of which one has not
// answered; else it says when to look again.
func (p *pair) ask(now time.Duration) (again time.Duration, ended bool) {
	if p.Plan() != nil {
		return never, false // a draining pair ends as soon as it is quiet
	}
	client, ended := p.askSide(now, &p.Client, &p.up, &p.down, services.ClientHeartbeat)
	if ended {
		return never, true
	}
	backend, ended := p.askSide(now, &p.Backend, &p.down, &p.up, services.BackendHeartbeat)
	return min(client, backend), ended
}

// askSide looks after one side: in is the pipe that reads it, out the one to it.
func (p *pair) askSide(now time.Duration, side *services.Side, in, out *services.Pipe, dead services.Reason) (again time.Duration, ended bool) {
	b := side.Beat
	if b == nil {
		return never, false
	}
	due, again := b.Look(now, p.Moved())
	switch {
	case due == services.DueDead:
		p.Because(dead, "no answer to the heartbeat within "+p.proxy.conf().Heartbeat.Timeout.String())
		p.abort(now, dead, services.First{Who: p.name(side), How: services.ByTimeout})
		return never, true
	case due == services.DueAsk && services.MayAsk(side, in, out):
		again, err := b.Ask(p.Loop(), out, now)
		if err != nil {
			p.fail(now, side, err)
			return never, true
		}
		return again, false
	}
	return again, false
}

func (p *pair) name(side *services.Side) string {
	if side == &p.Client {
		return "client"
	}
	return "backend"
}
