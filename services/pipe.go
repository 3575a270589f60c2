package services

import "io"

// Pipe moves bytes one way: what From receives is written to To. What To
// doesn't take is held, and From isn't read until it is taken: so a slow
// receiver slows the sender down by TCP's own means. From's FIN passes on to
// To behind the last byte; the opposite direction goes on.
//
// From and To may be the same side, which makes an echo. Without To, what is
// received is dropped.
type Pipe struct {
	From, To *Side

	held  []byte  // read and not yet written, in buf
	buf   *buffer // nil when nothing is held
	chunk int     // bytes to read at once: what To has lately taken
	cut   bool    // To gets FIN behind held, whatever From goes on to send
	stop  bool    // what From sends next is not passed on
}

const (
	// pipeBudget is what one run moves at most before others have their turn:
	// some 0.2 ms at 40 Gbit/s.
	pipeBudget = 1 << 20
	// minChunk bounds what is held for a slow receiver from below.
	minChunk   = 8 << 10
	firstChunk = 32 << 10
)

// Moved is what Pipe.Move did.
type Moved struct {
	Bytes int   // taken by To, or dropped
	More  bool  // the budget is used up and there may be more to do
	Side  *Side // whose connection failed, with Err
	Err   error
	// Stopped tells that From has sent something after Stop.
	Stopped bool
}

// Wants reports whether an event on one of the ends lets the pipe move: a
// held-up pipe waits for To alone.
func (p *Pipe) Wants(from, to bool) bool {
	if p.buf != nil {
		return to
	}
	return from && !(p.From.EOF && p.done())
}

func (p *Pipe) done() bool { return p.To == nil || p.To.FIN }

// Holds reports whether bytes wait for To.
func (p *Pipe) Holds() bool { return p.buf != nil }

// Cut ends the direction: To gets FIN behind what was read so far, and what
// From still sends is read and dropped, because bytes left unread would turn
// the close into a reset.
func (p *Pipe) Cut() { p.cut = true }

// Stop makes the next bytes that From sends end the Move, unpassed, if on.
func (p *Pipe) Stop(on bool) { p.stop = on }

// Move moves what can be moved now.
func (p *Pipe) Move(l *Loop) (m Moved) {
	for {
		if p.buf != nil && !p.flush(l, &m) {
			return m
		}
		if !p.pass(&m) || p.From.EOF {
			return m
		}
		if m.Bytes >= pipeBudget {
			m.More = true
			return m
		}
		if !p.carry(l, &m) {
			return m
		}
	}
}

// Flush writes what is held, as far as To takes it.
func (p *Pipe) Flush(l *Loop) (m Moved) {
	if p.buf != nil {
		p.flush(l, &m)
	}
	return m
}

// flush writes what is held and reports whether nothing is any more.
func (p *Pipe) flush(l *Loop, m *Moved) bool {
	n, err := p.To.Conn.TryWrite(p.held)
	p.held = p.held[n:]
	p.took(n, m)
	if err != nil && err != ErrWouldBlock {
		m.Side, m.Err = p.To, err
		return false
	}
	if len(p.held) > 0 {
		return false
	}
	p.Drop(l)
	return true
}

// pass hands From's FIN on.
func (p *Pipe) pass(m *Moved) bool {
	if p.To == nil || p.To.FIN || !p.From.EOF && !p.cut {
		return true
	}
	if err := p.To.CloseWrite(); err != nil {
		m.Side, m.Err = p.To, err
		return false
	}
	return true
}

// carry reads once and writes once; it reports whether to go on.
func (p *Pipe) carry(l *Loop, m *Moved) bool {
	if p.chunk == 0 {
		p.chunk = min(firstChunk, len(l.scratch))
	}
	in := l.scratch[:p.chunk]
	n, err := p.From.Conn.TryRead(in)
	if n > 0 {
		p.From.received.Add(int64(n))
	}
	switch {
	case err == nil:
	case err == io.EOF:
		p.From.EOF = true
	case err == ErrWouldBlock:
		return false
	default:
		m.Side, m.Err = p.From, err
		return false
	}
	if p.stop && n > 0 {
		m.Stopped = true
		return false
	}
	passed := p.From.Beat.hear(l, in[:n])
	if p.From.EOF {
		passed = append(passed, p.From.Beat.rest(l)...)
	}
	switch {
	case len(passed) == 0:
		return n > 0 || p.From.EOF
	case p.done():
		m.Bytes += len(passed)
		return true
	}
	return p.write(l, passed, m)
}

// inject sends a text of our own behind all that was passed on.
func (p *Pipe) inject(l *Loop, text string) error {
	n, err := p.To.Conn.TryWrite([]byte(text))
	if err != nil && err != ErrWouldBlock {
		return err
	}
	if n < len(text) {
		p.hold(l, []byte(text[n:]))
	}
	return nil
}

// write gives p to To and holds what it doesn't take.
func (p *Pipe) write(l *Loop, in []byte, m *Moved) bool {
	n, err := p.To.Conn.TryWrite(in)
	p.took(n, m)
	if err != nil && err != ErrWouldBlock {
		m.Side, m.Err = p.To, err
		return false
	}
	if n == len(in) {
		if n == p.chunk {
			p.chunk = min(2*p.chunk, len(l.scratch))
		}
		return true
	}
	p.hold(l, in[n:])
	p.chunk = max(p.chunk/2, min(minChunk, len(l.scratch)))
	return false
}

func (p *Pipe) hold(l *Loop, rest []byte) {
	p.buf = l.buffers.keep(rest)
	p.held = p.buf.mem[:len(rest)]
}

func (p *Pipe) took(n int, m *Moved) {
	if n > 0 {
		p.To.sent.Add(int64(n))
		m.Bytes += n
	}
}

// Drop forgets what is held.
func (p *Pipe) Drop(l *Loop) {
	if p.buf == nil {
		return
	}
	l.buffers.free(p.buf)
	p.buf, p.held = nil, nil
}
