package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Blob is content that both ends of a transfer can make for themselves.
type Blob struct {
	Seed uint64
	Size int64
}

// Reader returns the content.
func (b Blob) Reader() io.Reader {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], b.Seed)
	return io.LimitReader(rand.NewChaCha8(seed), b.Size)
}

// Sum returns the SHA-256 of the content.
func (b Blob) Sum() [sha256.Size]byte {
	h := sha256.New()
	// Neither of the two fails.
	_, _ = io.Copy(h, b.Reader())
	return [sha256.Size]byte(h.Sum(nil))
}

// Exchange sends one blob and ends that half, while it receives the other
// until its end. It is an error if that is not, byte by byte, the one wanted.
// The connection stays open.
func Exchange(ctx context.Context, c net.Conn, send, want Blob) error {
	stop := context.AfterFunc(ctx, func() {
		// A connection that can't has failed already.
		_ = c.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- sendBlob(c, send) }() // waited for below
	err := receiveBlob(c, want)
	if err != nil {
		// What is sent into a broken connection would wait for long.
		_ = c.SetWriteDeadline(time.Unix(1, 0))
	}
	err = errors.Join(err, <-sent)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func sendBlob(c net.Conn, b Blob) error {
	// Not ReadFrom, which has nothing to offer for a reader like this.
	n, err := io.CopyBuffer(struct{ io.Writer }{c}, b.Reader(), make([]byte, 64<<10))
	if err != nil {
		return fmt.Errorf("send after %d of %d bytes: %w", n, b.Size, err)
	}
	if err := closeWrite(c); err != nil {
		return fmt.Errorf("send the end after %d bytes: %w", n, err)
	}
	return nil
}

func receiveBlob(c net.Conn, b Blob) error {
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{c}, make([]byte, 64<<10))
	switch {
	case err != nil:
		return fmt.Errorf("receive after %d of %d bytes: %w", n, b.Size, err)
	case n != b.Size:
		return fmt.Errorf("received %d bytes, want %d", n, b.Size)
	case [sha256.Size]byte(h.Sum(nil)) != b.Sum():
		return fmt.Errorf("received %d bytes, but not the right ones", n)
	}
	return nil
}

// BulkServer starts a server that does its side of Exchange on each
// connection.
func BulkServer(ctx context.Context, h *Host, addr string, send, want Blob) (*Server, error) {
	return Serve(ctx, h, addr, func(c net.Conn) error { return Exchange(ctx, c, send, want) })
}

// Bulk connects to a BulkServer, or to a proxy before one, does the other side
// of Exchange and closes. It returns how long that took.
func Bulk(ctx context.Context, h *Host, addr string, send, want Blob) (time.Duration, error) {
	start := time.Now()
	c, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	err = Exchange(ctx, c, send, want)
	return time.Since(start), errors.Join(err, c.Close())
}
