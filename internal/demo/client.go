package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"

	"github.com/lastack/lastack/internal/lab"
)

// client is a connection of the client's kernel to the web service, which asks
// in HTTP and then sees how it ends.
type client struct {
	conn *net.TCPConn
	in   *bufio.Reader
	body io.ReadCloser // of the answer under way
}

func dialClient(ctx context.Context, h *lab.Host, addr string) (*client, error) {
	c, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newClient(c), nil
}

func newClient(c net.Conn) *client {
	return &client{conn: c.(*net.TCPConn), in: bufio.NewReaderSize(c, 64<<10)}
}

// addr is the client's own end.
func (c *client) addr() netip.AddrPort {
	return c.conn.LocalAddr().(*net.TCPAddr).AddrPort()
}

// ask sends a request and reads the answer up to its body.
func (c *client) ask(path string) error {
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: demo\r\n\r\n", path); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: got %s", path, answer.Status)
	}
	c.body = answer.Body
	return nil
}

// ending is how a client saw its connection end.
type ending int

const (
	lost     ending = iota // otherwise: a timeout, or we gave it up
	complete               // FIN, behind a complete answer
	cut                    // FIN, in the middle of an answer
	reset                  // RST
)

// await reads until the connection ends, and closes it.
func (c *client) await() ending {
	_, err := io.Copy(io.Discard, c.body)
	whole := err == nil
	if whole {
		_, err = c.in.ReadByte()
	}
	// What there was to see was seen by reading.
	_ = c.conn.Close()
	return saw(err, whole)
}

// saw tells FIN from RST by the error of a read.
func saw(err error, whole bool) ending {
	switch {
	case whole && errors.Is(err, io.EOF):
		return complete
	case errors.Is(err, io.ErrUnexpectedEOF):
		return cut
	case errors.Is(err, syscall.ECONNRESET):
		return reset
	}
	return lost
}

// get fetches one page on a connection of its own.
func (d *demo) get(ctx context.Context, path string) (string, error) {
	c, err := dialClient(ctx, d.scene.client, webAddr)
	if err != nil {
		return "", err
	}
	defer c.conn.Close()
	stop := closeOn(ctx, c.conn)
	defer stop()
	if err := c.ask(path); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c.body)
	return string(text), err
}

// closeOn closes c when ctx ends, so that whoever reads it stops.
func closeOn(ctx context.Context, c io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// It may be closed already.
		_ = c.Close()
	})
}
