package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Server accepts TCP connections on a host's kernel and gives each to a
// function. Whoever starts it closes it.
type Server struct {
	listener net.Listener
	handle   func(net.Conn) error
	owned    sync.WaitGroup

	accepted, failed atomic.Int64

	mu      sync.Mutex
	open    map[net.Conn]struct{}
	closing bool
	last    error
}

// Serve starts a server on a literal address; with port 0 the kernel chooses,
// see Addr. The server closes a connection when handle returns, and counts an
// error it returns.
func Serve(ctx context.Context, h *Host, addr string, handle func(net.Conn) error) (*Server, error) {
	l, err := h.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l, handle: handle, open: make(map[net.Conn]struct{})}
	s.owned.Go(s.accept)
	return s, nil
}

// Echo starts a server that returns what it gets until the end of it, and then
// ends its own half.
func Echo(ctx context.Context, h *Host, addr string) (*Server, error) {
	return Serve(ctx, h, addr, func(c net.Conn) error {
		// Not splice(2), which io.Copy uses between two sockets: it holds a
		// pipe, two more open files, for each connection that waits.
		_, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 8<<10))
		return errors.Join(err, closeWrite(c))
	})
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Accepted returns how many connections there were.
func (s *Server) Accepted() int64 { return s.accepted.Load() }

// Errors returns how many connections failed, and the last reason. Those that
// Close ended are not among them.
func (s *Server) Errors() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed.Load(), s.last
}

// Open returns how many connections there are.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Close stops listening, closes every connection and waits.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	again := s.closing
	s.closing = true
	for c := range s.open {
		c.Close() // its handler reports what is to report
	}
	s.mu.Unlock()
	s.owned.Wait()
	if again {
		return nil
	}
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Mostly the limit of open files. Others may end meanwhile.
			s.fail(err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		s.accepted.Add(1)
		if !s.enter(c) {
			c.Close()
			return
		}
		s.owned.Go(func() { s.serve(c) })
	}
}

func (s *Server) serve(c net.Conn) {
	err := s.handle(c)
	c.Close()
	if err != nil {
		s.fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *Server) enter(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.failed.Add(1)
		s.last = err
	}
}

// closeWrite ends the sending half of a connection.
func closeWrite(c net.Conn) error {
	h, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("end the sending half: this kind of connection can't")
	}
	return h.CloseWrite()
}
