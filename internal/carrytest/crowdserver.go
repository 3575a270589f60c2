package carrytest

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

// CrowdServer returns to every client of a few addresses what it sends. Whoever
// starts it stops it.
type CrowdServer struct {
	poll      int
	listeners map[int]bool
	conns     map[int]bool
	stop      chan struct{}
	stopped   chan struct{}
	err       error
}

// ServeCrowd starts one.
func ServeCrowd(h *lab.Host, at []netip.AddrPort) (*CrowdServer, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("serve a crowd: %w", err)
	}
	s := &CrowdServer{poll: poll, listeners: make(map[int]bool), conns: make(map[int]bool), stop: make(chan struct{}), stopped: make(chan struct{})}
	err = h.Do(func() error {
		for _, a := range at {
			fd, err := startListen(a)
			if err != nil {
				return err
			}
			s.listeners[fd] = true
			if err := s.watch(fd); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve a crowd: %w", err), s.closeAll())
	}
	go s.loop() // Close waits for it
	return s, nil
}

func (s *CrowdServer) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return unix.EpollCtl(s.poll, unix.EPOLL_CTL_ADD, fd, &ev)
}

func (s *CrowdServer) loop() {
	defer close(s.stopped)
	var events [256]unix.EpollEvent
	buf := make([]byte, 4096)
	for s.err == nil {
		select {
		case <-s.stop:
			return
		default:
		}
		n, err := unix.EpollWait(s.poll, events[:], 50)
		if err != nil && err != unix.EINTR {
			s.err = err
		}
		for _, ev := range events[:max(n, 0)] {
			if fd := int(ev.Fd); s.listeners[fd] {
				s.accept(fd)
			} else {
				s.echo(fd, buf)
			}
		}
	}
}

func (s *CrowdServer) accept(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == unix.EINTR, err == unix.ECONNABORTED:
			continue
		case err == unix.EAGAIN:
			return
		case err == nil:
			s.conns[fd] = true
			err = s.watch(fd)
		}
		if err != nil {
			s.err = fmt.Errorf("serve a crowd: %w", err)
			return
		}
	}
}

// echo returns what is there. Words are few: a full buffer is a fault.
func (s *CrowdServer) echo(fd int, buf []byte) {
	n, err := unix.Read(fd, buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err == nil && n > 0 {
		if k, err := unix.SendmsgN(fd, buf[:n], nil, nil, unix.MSG_NOSIGNAL); err == nil && k == n {
			return
		}
	}
	delete(s.conns, fd)
	// The client is gone, or will see that this end is.
	_ = unix.Close(fd)
}

// Close ends the server and all its connections.
func (s *CrowdServer) Close() error {
	close(s.stop)
	<-s.stopped
	return errors.Join(s.err, s.closeAll())
}

func (s *CrowdServer) closeAll() error {
	var errs []error
	for _, fds := range []map[int]bool{s.listeners, s.conns} {
		for fd := range fds {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(append(errs, unix.Close(s.poll))...)
}
