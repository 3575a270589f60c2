package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// visitor makes one connection after the other: connect, ask, hear the answer
// and the server's end, close.
type visitor struct {
	fd    int
	asked bool
	got   int
}

// visitors are all of them; events carry their index.
type visitors struct {
	poll *poller
	to   *unix.SockaddrInet4
	all  []visitor
	buf  []byte
	out  outcome
}

// connects counts the connections that went through all stages.
func (l load) connects() (outcome, error) {
	sa, err := sockaddr(l.addr)
	if err != nil {
		return outcome{}, err
	}
	p, err := newPoller()
	if err != nil {
		return outcome{}, err
	}
	vs := &visitors{poll: p, to: sa, buf: make([]byte, 4<<10)}
	defer vs.close()
	for range l.conns {
		vs.all = append(vs.all, visitor{fd: -1})
	}
	for i := range vs.all {
		if err := vs.begin(i); err != nil {
			return outcome{}, err
		}
	}
	return vs.run(l.window())
}

func (vs *visitors) close() {
	var sockets []int
	for _, v := range vs.all {
		sockets = append(sockets, v.fd)
	}
	vs.poll.close(sockets...)
}

func (vs *visitors) run(w window) (outcome, error) {
	for {
		events, err := vs.poll.wait(time.Until(w.end))
		if err != nil {
			return vs.out, err
		}
		for _, ev := range events {
			if err := vs.visit(int(ev.Fd)); err != nil {
				return vs.out, err
			}
		}
		now := time.Now()
		if w.begins(now) {
			vs.out.Count = 0
		}
		if w.ended(now) {
			vs.out.Length = now.Sub(w.begin)
			return vs.out, nil
		}
	}
}

// begin starts to connect.
func (vs *visitors) begin(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	vs.all[i] = visitor{fd: fd}
	if err := unix.Connect(fd, vs.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	// Edge-triggered for both directions: one call serves the whole life.
	return vs.poll.add(fd, i, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET)
}

// visit goes on with a connection that can, and begins the next one if it came
// to its end, whatever that was. An error is one of ours, not of the peer.
func (vs *visitors) visit(i int) error {
	done, err := vs.all[i].step(vs.buf)
	switch {
	case err != nil:
		vs.out.fail(err)
	case done:
		vs.out.Count++
	default:
		return nil
	}
	if err := unix.Close(vs.all[i].fd); err != nil {
		return fmt.Errorf("close a socket: %w", err)
	}
	return vs.begin(i)
}

// step does what can be done now and reports whether that was all.
func (v *visitor) step(buf []byte) (bool, error) {
	if !v.asked {
		_, err := write(v.fd, []byte(lastRequest))
		if again(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("connect and send a request: %w", err)
		}
		v.asked = true
	}
	for {
		n, err := read(v.fd, buf)
		switch {
		case again(err):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("receive an answer: %w", err)
		case n == 0 && v.got < len(lastAnswer):
			return false, fmt.Errorf("receive an answer after %d bytes: %w", v.got, io.ErrUnexpectedEOF)
		case n == 0:
			return true, nil
		}
		v.got += n
	}
}
