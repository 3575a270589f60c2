package services

import (
	"context"
	"errors"
	"fmt"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// ErrUnknown is the answer about a connection that does not live here.
var ErrUnknown = errors.New("no live connection has that ID")

// Kill ends a connection on the operator's word: "fin" closes both sides in
// order and resets who does not answer within fin_wait2, "rst" resets both at once.
func (s *Server) Kill(id uint64, how string) error {
	if how != "fin" && how != "rst" {
		return fmt.Errorf("unknown way %q to end a connection; allowed: fin, rst", how)
	}
	session := s.session(id)
	switch {
	case session == nil:
		return s.carriage.kill(id, how)
	case how == "fin":
		session.Wake(ReadyEnd)
	default:
		session.Wake(ReadyKill)
	}
	return nil
}

// session finds a live session, or nil.
func (s *Server) session(id uint64) *Session {
	for _, sh := range s.shards {
		sh.mu.Lock()
		for one := sh.first; one != nil; one = one.next {
			if one.id == id {
				sh.mu.Unlock()
				return one
			}
		}
		sh.mu.Unlock()
	}
	return nil
}

// Probed is what both sides of a connection answered to a keepalive segment.
type Probed struct {
	Client  tcpinfo.Probe  `json:"client"`
	Backend *tcpinfo.Probe `json:"backend,omitempty"` // nil without a backend
}

// Probe sends both sides of a connection a keepalive segment now and waits for
// the answers, some seconds at most.
func (s *Server) Probe(ctx context.Context, id uint64) (Probed, error) {
	client, backend := s.ask(id)
	if client == nil {
		return Probed{}, ErrUnknown
	}
	var p Probed
	select {
	case p.Client = <-client:
	case <-ctx.Done():
		return p, ctx.Err()
	}
	if backend == nil {
		return p, nil
	}
	select {
	case answer := <-backend:
		p.Backend = &answer
	case <-ctx.Done():
		return p, ctx.Err()
	}
	return p, nil
}

// ask probes both sides of a connection; client is nil if there is none of that
// ID, backend if it has none.
func (s *Server) ask(id uint64) (client, backend <-chan tcpinfo.Probe) {
	session := s.session(id)
	if session == nil {
		return s.carriage.ask(id)
	}
	client = ask(session.Client.Conn)
	session.shard.mu.Lock()
	second := session.Backend.Conn
	session.shard.mu.Unlock()
	if second != nil {
		backend = ask(second)
	}
	return client, backend
}

func (c *carriage) ask(id uint64) (client, backend <-chan tcpinfo.Probe) {
	ref, ok := c.find(id)
	if !ok {
		return nil, nil
	}
	leg := func(name tcpinfo.LegName) <-chan tcpinfo.Probe {
		answer := make(chan tcpinfo.Probe, 1)
		c.carrier.ProbeLeg(ref, name, func(p tcpinfo.Probe) { answer <- p })
		return answer
	}
	return leg(tcpinfo.ClientLeg), leg(tcpinfo.BackendLeg)
}

// ask probes one side. Its answer always fits into the channel.
func ask(c Conn) <-chan tcpinfo.Probe {
	answer := make(chan tcpinfo.Probe, 1)
	c.Probe(func(p tcpinfo.Probe) { answer <- p })
	return answer
}

// Kill ends the connection with the ID, whichever service has it.
func (v *Supervisor) Kill(id uint64, how string) error {
	for _, s := range v.Services() {
		if err := s.Kill(id, how); !errors.Is(err, ErrUnknown) {
			return err
		}
	}
	return ErrUnknown
}

// Probe asks both sides of the connection with the ID, whichever service has it.
func (v *Supervisor) Probe(ctx context.Context, id uint64) (Probed, error) {
	for _, s := range v.Services() {
		if p, err := s.Probe(ctx, id); !errors.Is(err, ErrUnknown) {
			return p, err
		}
	}
	return Probed{}, ErrUnknown
}
