package carrytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Seen is what one side saw of the other.
type Seen struct {
	Present     bool // there was a connection
	Read, Wrote int64
	EOF         bool // the other's FIN came behind what was read
	Reset       bool // before this side had ended by itself
	Left        bool // this side has reset it
	Err         error
}

// party plays one side of a schedule on a socket.
type party struct {
	sock     *socket
	script   *Script
	out, in  stream
	readUpTo atomic.Int64  // bytes read, the FIN counted as one
	moved    chan struct{} // readUpTo has grown
	read     chan struct{} // closed when nothing more will be read

	mu   sync.Mutex
	seen Seen
}

// play does what the script says and returns what was seen. The socket is
// closed then.
func (p *party) play(ctx context.Context) Seen {
	p.moved, p.read = make(chan struct{}, 1), make(chan struct{})
	p.seen.Present = true
	stop := p.sock.until(ctx)
	defer stop()
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.read)
		p.note(p.readAll(ctx))
	})
	err := p.speak(ctx)
	p.note(err)
	if p.isOver() {
		// Nothing comes any more that the reader would wait for.
		_ = p.sock.close()
	}
	reading.Wait()
	p.note(p.sock.close())
	return p.seen
}

// isOver reports whether this side has reset the connection or failed.
func (p *party) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Left || p.seen.Err != nil
}

// note sorts an error: a reset is something seen, what follows our own end is
// nothing, the rest is a fault.
func (p *party) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil, p.seen.Left, p.seen.Reset && errors.Is(err, io.ErrUnexpectedEOF):
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNREFUSED):
		p.seen.Reset = true
	case p.seen.Err == nil && !errors.Is(err, os.ErrClosed):
		p.seen.Err = err
		// Whatever still waits on this side waits for nothing.
		_ = p.sock.file.SetDeadline(time.Unix(1, 0))
	}
}

// readAll reads until the end, with the stalls of the script, and checks each
// byte.
func (p *party) readAll(ctx context.Context) error {
	buf, spare := make([]byte, p.script.Piece), make([]byte, p.script.Piece)
	stalls := p.script.Stalls
	for at := int64(0); ; {
		for len(stalls) > 0 && at >= stalls[0].After {
			if !pause(ctx, stalls[0].For) {
				return fmt.Errorf("stall at %d: %w", at, context.Cause(ctx))
			}
			stalls = stalls[1:]
		}
		n, err := p.sock.read(buf)
		if err != nil {
			return fmt.Errorf("read after %d bytes: %w", at, err)
		}
		if n == 0 {
			p.ended()
			return nil
		}
		if err := p.in.check(buf[:n], at, spare); err != nil {
			return err
		}
		at += int64(n)
		p.mu.Lock()
		p.seen.Read = at
		p.mu.Unlock()
		p.grow(at)
	}
}

func (p *party) ended() {
	p.mu.Lock()
	p.seen.EOF = true
	at := p.seen.Read
	p.mu.Unlock()
	p.grow(at + 1)
}

func (p *party) grow(to int64) {
	p.readUpTo.Store(to)
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// speak writes and ends.
func (p *party) speak(ctx context.Context) error {
	buf := make([]byte, 64<<10)
	for i, step := range p.script.Out {
		if err := p.ready(ctx, step.Wait, step.Await); err != nil {
			return err
		}
		err := p.write(buf, step)
		if err == nil && i == 0 && p.script.Open == WithSYN {
			err = p.sock.connected() // only now has it begun
		}
		if err != nil {
			return fmt.Errorf("write after %d bytes: %w", p.seen.Wrote, err)
		}
	}
	end := p.script.End
	if err := p.ready(ctx, end.Wait, end.Await); err != nil {
		return err
	}
	return p.end(ctx, end)
}

// ready waits for the moment of a step.
func (p *party) ready(ctx context.Context, wait time.Duration, await int64) error {
	for p.readUpTo.Load() < await {
		select {
		case <-p.moved:
		case <-ctx.Done():
			return fmt.Errorf("after %d bytes of the %d awaited: %w", p.readUpTo.Load(), await, context.Cause(ctx))
		case <-p.read:
			if p.readUpTo.Load() < await {
				return io.ErrUnexpectedEOF
			}
		}
	}
	if !pause(ctx, wait) {
		return context.Cause(ctx)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// write does one step.
func (p *party) write(buf []byte, step Step) error {
	for left := step.Write; left > 0; {
		b := buf[:min(left, len(buf))]
		p.out.fill(b, p.seen.Wrote)
		flags := 0
		if step.Urgent && left == len(b) {
			flags = unix.MSG_OOB
		}
		n, err := p.sock.write(b, flags)
		p.mu.Lock()
		p.seen.Wrote += int64(n)
		p.mu.Unlock()
		if left -= n; err != nil {
			return err
		}
	}
	return nil
}

// end ends this side.
func (p *party) end(ctx context.Context, end Ending) error {
	switch end.How {
	case Fin:
		return ending(p.sock.finish())
	case Hold:
		return p.hold(ctx)
	case FinReset:
		if err := ending(p.sock.finish()); err != nil {
			return err
		}
		if !pause(ctx, end.Then) {
			return context.Cause(ctx)
		}
	}
	return p.leave()
}

// ending names what went wrong. That the connection was gone already is a
// reset.
func ending(err error) error {
	if errors.Is(err, unix.ENOTCONN) {
		err = unix.ECONNRESET
	}
	if err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	return nil
}

// leave resets the connection, unless that has happened already.
func (p *party) leave() error {
	info, pending := p.sock.info()
	p.mu.Lock()
	switch {
	case p.seen.Reset, p.seen.Err != nil:
	case info.State == tcpClose:
		p.seen.Reset = true
	case pending != nil:
		p.seen.Err = pending
	default:
		p.seen.Left = true
	}
	p.mu.Unlock()
	return p.sock.reset()
}

// tcpClose is TCP_CLOSE of net/tcp_states.h.
const tcpClose = 7

// hold waits until the connection is reset: a read would say so only as long as
// no FIN has come.
func (p *party) hold(ctx context.Context) error {
	for {
		info, pending := p.sock.info()
		if errors.Is(pending, unix.ETIMEDOUT) {
			return fmt.Errorf("hold: %w", pending)
		}
		if info.State == tcpClose {
			return unix.ECONNRESET
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("hold: not reset: %w", context.Cause(ctx))
		}
	}
}
