package servicestest

import "syscall"

// transmit sends what the peer's window takes, and FIN behind the last byte.
func (c *Conn) transmit() {
	if c.peer == nil || c.err != nil {
		return
	}
	full := len(c.sending) == c.size
	n := min(len(c.sending), c.peer.size-len(c.peer.received)-c.flying)
	if n > 0 {
		c.carry(c.sending[:n])
		c.sending = c.sending[:copy(c.sending, c.sending[n:])]
		if full {
			c.event()
		}
	}
	if c.finAsked && !c.finSent && len(c.sending) == 0 {
		c.finSent = true
		c.send(segment{fin: true})
	}
}

// carry sends data.
func (c *Conn) carry(p []byte) {
	if d := c.peer; c.net.Delay == 0 && !c.lost && !d.closed && d.err == nil {
		d.received = append(d.received, p...) // what the rest comes to, without garbage
		d.event()
		return
	}
	c.flying += len(p)
	c.send(segment{data: append([]byte(nil), p...)})
}

func (c *Conn) send(s segment) {
	if c.lost || c.peer == nil {
		return
	}
	c.flight = append(c.flight, s)
	c.net.after(func() {
		next := c.flight[0]
		c.flight = c.flight[1:]
		c.flying -= len(next.data)
		if !c.lost {
			c.peer.arrive(next)
		}
	})
}

// arrive handles what the peer sent.
func (c *Conn) arrive(s segment) {
	if c.err != nil {
		return
	}
	switch {
	case s.rst:
		c.fail(syscall.ECONNRESET)
	case s.finAck:
		c.finAcked = true
		if state := c.state(); state == "CLOSED" || state == "TIME-WAIT" {
			c.event() // as in the stack, FIN-WAIT-2 raises none
		}
	case s.fin:
		c.finRead = true
		c.send(segment{finAck: true})
		c.event()
	case c.closed: // data for nobody
		c.reset()
		c.err, c.told = syscall.ECONNABORTED, true
	default:
		c.received = append(c.received, s.data...)
		c.event()
	}
}

func (c *Conn) fail(err error) {
	if c.err != nil || c.state() == "TIME-WAIT" || c.state() == "CLOSED" {
		return
	}
	c.err = err
	c.sending = nil
	c.event()
}
