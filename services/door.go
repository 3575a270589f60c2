package services

import (
	"errors"
	"net"
	"time"
)

// door accepts the connections of one listener.
type door struct {
	Task
	server   *Server
	listener Listener
	closed   bool
	leaves   time.Duration // when it stops listening; 0 is never
	admitted bool          // a place under max_conns is reserved, and no session has it
	taken    Conn          // accepted, and not a session's yet
}

const (
	// acceptBurst is how many a run accepts before others have their turn.
	acceptBurst = 64
	// acceptPause is the wait after an accept that failed for want of something.
	acceptPause = 100 * time.Millisecond
)

// Run accepts what waits.
func (d *door) Run(now time.Duration, ready Ready) {
	if d.closed {
		return
	}
	if ready&ReadyStop != 0 {
		d.close()
		return
	}
	if ready&ReadyEnd != 0 && d.leaves == 0 {
		d.leaves = now + handshakeGrace
	}
	if d.leaves != 0 && now >= d.leaves {
		d.close()
		d.server.network.Admit(d.listener.Addr()) // nobody listens there: the stack refuses by itself
		return
	}
	if d.leaves != 0 {
		d.Arm(d.leaves)
	}
	for range acceptBurst {
		if !d.server.admit() {
			return
		}
		d.admitted = true
		c, err := d.listener.TryAccept()
		if err != nil {
			d.admitted = false
			d.server.unadmit()
			d.failed(now, err)
			return
		}
		d.taken = c
		d.server.adopt(c)
		d.admitted, d.taken = false, nil
	}
	d.Wake(ReadyStart)
}

// failed waits for the next event, or a moment after a real error.
func (d *door) failed(now time.Duration, err error) {
	if err == ErrWouldBlock || errors.Is(err, net.ErrClosed) {
		return
	}
	d.server.tally.acceptErrors.Add(1)
	d.Arm(now + acceptPause)
}

// close resets whoever still waits, which is accounted for, and stops listening.
func (d *door) close() {
	d.closed = true
	d.Disarm()
	for {
		c, err := d.listener.TryAccept()
		if err == ErrWouldBlock || errors.Is(err, net.ErrClosed) {
			break
		}
		if err == nil {
			d.server.turnAway(c, Stopped, "arrived as the listener closed")
		}
	}
	if err := d.listener.Close(); err != nil {
		d.server.log.Warn("closing a listener failed", "address", d.listener.Addr(), "error", err)
	}
	d.server.opened.Done()
}

// Panicked goes on accepting, without the connection that it happened with.
func (d *door) Panicked(now time.Duration) {
	d.Arm(now + acceptPause)
	c := d.taken
	if d.taken = nil; d.admitted {
		d.admitted = false
		d.server.unadmit()
	}
	if c != nil {
		d.server.turnAway(c, InternalError, "the service failed to take it")
	}
}

// turnAway resets a connection that no session was made of.
func (s *Server) turnAway(c Conn, why Reason, detail string) {
	e := Ended{
		ID: c.ID(), Service: s.Name(), Policy: s.Settings().Service.Policy, ClientAddr: c.RemoteAddr(), Local: c.LocalAddr(),
		Reason: why, Detail: detail, First: First{"us", ByRST}, Outcome: Reset,
		Client: EndedSide{Present: true, State: c.State(), Reset: true},
		Opened: s.loops.epoch.Add(s.loops.Now()), Carrier: s.relays(),
	}
	c.Abort()
	e.Client.Life = c.Life()
	s.tally.accepted.Add(1)
	s.tally.add(&e)
	s.ring.add(e)
	if plan := s.plan.Load(); plan != nil {
		plan.account.ended(e, s.loops.Now())
	}
}
