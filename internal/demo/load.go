package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/lastack/lastack/internal/lab"
)

// load is a number of downloads that go on until finish.
type load struct {
	clients []*client
	bytes   atomic.Int64 // received by all
	owned   sync.WaitGroup
	stops   []func() bool

	mu     sync.Mutex
	failed error
}

// startLoad starts n downloads of an endless page. They are broken off with ctx.
func startLoad(ctx context.Context, h *lab.Host, path string, n int) (*load, error) {
	l := &load{}
	for range n {
		if err := l.add(ctx, h, path); err != nil {
			return nil, errors.Join(fmt.Errorf("start a download: %w", err), l.finish())
		}
	}
	return l, nil
}

func (l *load) add(ctx context.Context, h *lab.Host, path string) error {
	c, err := dialClient(ctx, h, webAddr)
	if err != nil {
		return err
	}
	l.stops = append(l.stops, closeOn(ctx, c.conn))
	if err := c.ask(path); err != nil {
		return errors.Join(err, c.conn.Close())
	}
	l.clients = append(l.clients, c)
	l.owned.Go(func() { l.download(c) })
	return nil
}

// download counts what comes until the server finishes.
func (l *load) download(c *client) {
	buf := make([]byte, 256<<10)
	for {
		n, err := c.body.Read(buf)
		l.bytes.Add(int64(n))
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			l.fail(err)
		}
		l.fail(c.conn.Close())
		return
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
}

// finish ends the clients' halves, upon which the servers end theirs, and waits.
func (l *load) finish() error {
	for _, c := range l.clients {
		if err := c.conn.CloseWrite(); err != nil {
			l.fail(err)
		}
	}
	l.owned.Wait()
	for _, stop := range l.stops {
		stop()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return fmt.Errorf("download through the appliance: %w", l.failed)
	}
	return nil
}
