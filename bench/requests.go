package main

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// caller is one keep-alive connection.
type caller struct {
	fd  int
	got int           // bytes of the answer so far
	due time.Duration // when its request should have been sent, if paced
}

// ask sends a request.
func (c *caller) ask() error {
	n, err := write(c.fd, []byte(request))
	if err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	if n < len(request) {
		return fmt.Errorf("send a request: only %d of %d bytes went", n, len(request))
	}
	return nil
}

// hear takes what is there and reports whether the answer is complete.
func (c *caller) hear(buf []byte) (bool, error) {
	n, err := read(c.fd, buf)
	if again(err) {
		return false, nil
	}
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, fmt.Errorf("receive an answer: %w", err)
	}
	if c.got+n > len(answer) || string(buf[:n]) != answer[c.got:c.got+n] {
		return false, fmt.Errorf("receive an answer: got %q after %d bytes, want %q", buf[:n], c.got, answer)
	}
	c.got += n
	if c.got < len(answer) {
		return false, nil
	}
	c.got = 0
	return true, nil
}

// callers are all connections of a client; events carry their index.
type callers struct {
	poll *poller
	all  []caller
	buf  []byte
}

// open connects. Whoever calls it closes them.
func (l load) open() (*callers, error) {
	sa, err := sockaddr(l.addr)
	if err != nil {
		return nil, err
	}
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	cs := &callers{poll: p, buf: make([]byte, 4<<10)}
	for i := range l.conns {
		if err := cs.add(sa); err != nil {
			cs.close()
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, l.conns, err)
		}
	}
	return cs, nil
}

// add makes one more connection.
func (cs *callers) add(to *unix.SockaddrInet4) error {
	fd, err := dial(to)
	if err != nil {
		return err
	}
	cs.all = append(cs.all, caller{fd: fd})
	return cs.poll.add(fd, len(cs.all)-1, unix.EPOLLIN)
}

func (cs *callers) close() {
	var sockets []int
	for _, c := range cs.all {
		sockets = append(sockets, c.fd)
	}
	cs.poll.close(sockets...)
}

// askAll asks on every connection.
func (cs *callers) askAll() error {
	for i := range cs.all {
		if err := cs.all[i].ask(); err != nil {
			return err
		}
	}
	return nil
}

// collect waits for answers, calls done for each complete one, and returns the
// time after that.
func (cs *callers) collect(timeout time.Duration, done func(i int) error) (time.Time, error) {
	events, err := cs.poll.wait(timeout)
	if err != nil {
		return time.Time{}, err
	}
	for _, ev := range events {
		complete, err := cs.all[ev.Fd].hear(cs.buf)
		if err == nil && complete {
			err = done(int(ev.Fd))
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

// requests keeps one request under way on every connection. A connection that
// breaks is an error: none may.
func (l load) requests() (outcome, error) {
	cs, err := l.open()
	if err != nil {
		return outcome{}, err
	}
	defer cs.close()
	if err := cs.askAll(); err != nil {
		return outcome{}, err
	}
	var o outcome
	w := l.window()
	for {
		now, err := cs.collect(time.Until(w.end), func(i int) error {
			o.Count++
			return cs.all[i].ask()
		})
		if err != nil {
			return o, err
		}
		if w.begins(now) {
			o.Count = 0
		}
		if w.ended(now) {
			o.Length = now.Sub(w.begin)
			return o, nil
		}
	}
}

// idle asks once on each connection and then holds all.
func (l load) idle(stdout io.Writer) error {
	cs, err := l.open()
	if err != nil {
		return err
	}
	defer cs.close()
	if err := cs.askAll(); err != nil {
		return err
	}
	for left := len(cs.all); left > 0; {
		if _, err := cs.collect(-1, func(int) error { left--; return nil }); err != nil {
			return err
		}
	}
	ready(stdout)
	for {
		// An answer that nobody asked for, or the end of a connection.
		if _, err := cs.collect(-1, func(int) error { return nil }); err != nil {
			return err
		}
	}
}
