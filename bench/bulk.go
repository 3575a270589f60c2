package main

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// bulk sends zeros on every connection. The server counts.
func (l load) bulk(stdout io.Writer) error {
	sa, err := sockaddr(l.addr)
	if err != nil {
		return err
	}
	p, err := newPoller()
	if err != nil {
		return err
	}
	for range l.conns {
		fd, err := dial(sa)
		if err != nil {
			return err
		}
		if err := p.add(fd, fd, unix.EPOLLOUT); err != nil {
			return err
		}
	}
	ready(stdout)
	return send(p)
}

// send writes wherever there is room. It returns only with an error.
func send(p *poller) error {
	buf := make([]byte, sendChunk)
	for {
		events, err := p.wait(-1)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if _, err := write(int(ev.Fd), buf); err != nil && !again(err) {
				return fmt.Errorf("send: %w", err)
			}
		}
	}
}
