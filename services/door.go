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
	for range acceptBurst {
		if !d.server.admit() {
			return
		}
		c, err := d.listener.TryAccept()
		if err != nil {
			d.server.unadmit()
			d.failed(now, err)
			return
		}
		d.server.adopt(c)
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
			d.server.turnAway(c)
		}
	}
	if err := d.listener.Close(); err != nil {
		d.server.log.Warn("closing a listener failed", "address", d.listener.Addr(), "error", err)
	}
	d.server.opened.Done()
}

// Panicked goes on accepting.
func (d *door) Panicked(now time.Duration) { d.Arm(now + acceptPause) }

// turnAway resets a connection that no session was made of.
func (s *Server) turnAway(c Conn) {
	e := Ended{
		ID: c.ID(), Service: s.Name(), ClientAddr: c.RemoteAddr(), Local: c.LocalAddr(),
		Reason: Stopped, Detail: "arrived as the listener closed", First: First{"us", ByRST}, Outcome: Reset,
		Client: EndedSide{Present: true, State: c.State(), Reset: true},
		Opened: s.loops.epoch.Add(s.loops.Now()),
	}
	c.Abort()
	s.tally.accepted.Add(1)
	s.tally.add(&e)
	s.ring.add(e)
	s.account(e)
}
