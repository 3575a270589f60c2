package netif

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// stream is a connection whose far end echoes, with bytes under way all the
// time: both directions are busy when something happens to the card. They are no
// more than the windows hold: gVisor alone hears no ACK from beyond the edge of a
// closed window, and stack/flow, which mends that, is not here.
type stream struct {
	t    testing.TB
	c    net.Conn
	back atomic.Int64  // bytes that came back, each compared with the one sent
	more chan struct{} // back has grown
	stop atomic.Bool
	sent chan error
	got  chan error
}

const underWay = 512 << 10

// newStream opens a connection and keeps it busy until finish.
func newStream(t testing.TB, c net.Conn) *stream {
	s := &stream{t: t, c: c, more: make(chan struct{}, 1), sent: make(chan error, 1), got: make(chan error, 1)}
	content := lab.Blob{Seed: 3, Size: math.MaxInt64}
	total := make(chan int64, 1)
	go func() { s.sent <- s.write(content.Reader(), total) }()
	go func() { s.got <- s.read(content.Reader(), total) }()
	t.Cleanup(func() {
		s.stop.Store(true)
		_ = c.Close() // both goroutines end with it
	})
	return s
}

// streamTo opens a stream from the peer's kernel to the stack.
func (r *rig) streamTo(ours string) *stream {
	r.t.Helper()
	c, err := r.peer.Dial(limit(r.t), "tcp", net.JoinHostPort(ours, echoPort))
	if err != nil {
		r.t.Fatal(err)
	}
	return newStream(r.t, c)
}

func (s *stream) write(content io.Reader, total chan<- int64) error {
	buf := make([]byte, 64<<10)
	sum := int64(0)
	defer func() { total <- sum }()
	for !s.stop.Load() {
		if sum-s.back.Load() > underWay {
			if _, open := <-s.more; !open {
				break // the reader has given up
			}
			continue
		}
		_, _ = io.ReadFull(content, buf) // has no end
		n, err := s.c.Write(buf)
		sum += int64(n)
		if err != nil {
			return err
		}
	}
	return s.c.(interface{ CloseWrite() error }).CloseWrite()
}

func (s *stream) read(content io.Reader, total <-chan int64) error {
	defer close(s.more)
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := s.c.Read(got)
		_, _ = io.ReadFull(content, want[:n]) // has no end
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("the bytes after %d are not those that were sent", s.back.Load())
		}
		back := s.back.Add(int64(n))
		select {
		case s.more <- struct{}{}:
		default:
		}
		if errors.Is(err, io.EOF) {
			if sent := <-total; back != sent {
				return fmt.Errorf("%d of %d bytes came back", back, sent)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// advance waits until n more bytes have come back.
func (s *stream) advance(n int64) {
	s.t.Helper()
	from := s.back.Load()
	for end := time.Now().Add(20 * time.Second); s.back.Load() < from+n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%d of %d bytes came back in 20 s", s.back.Load()-from, n)
		}
	}
}

// finish ends the stream: every byte must have come back.
func (s *stream) finish() {
	s.t.Helper()
	s.stop.Store(true)
	_ = s.c.SetDeadline(time.Now().Add(20 * time.Second)) // a broken connection has failed already
	if err := errors.Join(<-s.sent, <-s.got); err != nil {
		s.t.Errorf("stream: %v", err)
	}
}
