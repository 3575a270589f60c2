package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Many is a number of connections open at the same time. Whoever opens it
// closes it.
type Many struct {
	conns []net.Conn
}

// abreast is how many connections are worked on at once.
const abreast = 256

// OpenMany makes n connections to an address. On an error none stays open.
func OpenMany(ctx context.Context, h *Host, addr string, n int) (*Many, error) {
	m := &Many{conns: make([]net.Conn, n)}
	failed, err := each(n, func(i int) (err error) {
		m.conns[i], err = h.Dial(ctx, "tcp", addr)
		return err
	})
	if failed > 0 {
		m.Close()
		return nil, fmt.Errorf("open %d connections, %d failed, one with: %w", n, failed, err)
	}
	return m, nil
}

// Conns returns the connections.
func (m *Many) Conns() []net.Conn { return m.conns }

// Echo sends a few bytes, different on each connection, and waits for the
// same. It returns how many connections failed, and one of the reasons.
func (m *Many) Echo(ctx context.Context) (failed int, err error) {
	return each(len(m.conns), func(i int) error { return echoOnce(ctx, m.conns[i], i) })
}

// Close closes all connections.
func (m *Many) Close() error {
	var errs []error
	for _, c := range m.conns {
		if c == nil {
			continue
		}
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func echoOnce(ctx context.Context, c net.Conn, i int) error {
	stop := context.AfterFunc(ctx, func() {
		// A connection that can't has failed already.
		_ = c.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	want := fmt.Appendf(nil, "connection %d\n", i)
	if _, err := c.Write(want); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("sent %q, got %q", want, got)
	}
	return nil
}

// each calls f for 0 to n-1, some at once, waits for all, and returns how many
// failed and the last reason.
func each(n int, f func(i int) error) (failed int, last error) {
	var (
		mu    sync.Mutex
		next  = make(chan int)
		owned sync.WaitGroup
	)
	for range min(n, abreast) {
		owned.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mu.Lock()
					failed, last = failed+1, err
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	owned.Wait()
	return failed, last
}
