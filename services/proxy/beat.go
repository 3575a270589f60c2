package proxy

import (
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

// beats ask the peers of a pair whether their applications live. A pair of a
// service without heartbeat has none.
type beats struct{ client, backend services.Beat }

// beat makes the pair ask the sides that h names.
func (p *pair) beat(h *config.Heartbeat) {
	p.beats = &beats{}
	if h.Asks("client") {
		p.beats.client = services.NewBeat(h)
		p.up.Beat = &p.beats.client
	}
	if h.Asks("backend") {
		p.beats.backend = services.NewBeat(h)
		p.down.Beat = &p.beats.backend
	}
}

// ask asks the peers that are due and ends a pair of which one has not
// answered; else it says when to look again.
func (p *pair) ask(now time.Duration) (again time.Duration, ended bool) {
	if p.beats == nil || p.Plan() != nil {
		return never, false // a draining pair ends as soon as it is quiet
	}
	client, ended := p.askSide(now, &p.beats.client, &p.Client, &p.up, &p.down, services.ClientHeartbeat)
	if ended {
		return never, true
	}
	backend, ended := p.askSide(now, &p.beats.backend, &p.Backend, &p.down, &p.up, services.BackendHeartbeat)
	return min(client, backend), ended
}

// askSide looks after one side: in is the pipe that reads it, out the one to it.
func (p *pair) askSide(now time.Duration, b *services.Beat, side *services.Side, in, out *services.Pipe, dead services.Reason) (again time.Duration, ended bool) {
	if !b.Asks() {
		return never, false
	}
	due, again := b.Look(now, p.Moved())
	switch {
	case due == services.DueDead:
		p.Because(dead, "no answer to the heartbeat within "+p.proxy.config.Heartbeat.Timeout.String())
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
