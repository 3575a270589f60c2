// Package stacktest waits for a stack's listeners and connections, in tests:
// its operations end the test when they fail or take far too long.
package stacktest

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/stack"
)

// Limit bounds a test's waiting; it only runs out when something is broken.
func Limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Await calls try at every event until it returns something else than EAGAIN.
func Await(t *testing.T, n interface{ Notify(func()) }, try func() error) error {
	t.Helper()
	ready := make(chan struct{}, 1)
	n.Notify(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	ctx := Limit(t)
	for {
		if err := try(); !errors.Is(err, syscall.EAGAIN) {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			t.Fatal("nothing happened for too long")
		}
	}
}

// Accept waits for the next connection, which is aborted when the test ends.
func Accept(t *testing.T, l *stack.Listener) *stack.Conn {
	t.Helper()
	var c *stack.Conn
	if err := Await(t, l, func() (err error) { c, err = l.TryAccept(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	return c
}

// Read reads n bytes.
func Read(t *testing.T, c *stack.Conn, n int) string {
	t.Helper()
	p := make([]byte, n)
	for got := 0; got < n; {
		if err := Await(t, c, func() error {
			m, err := c.TryRead(p[got:])
			got += m
			return err
		}); err != nil {
			t.Fatalf("read after %d of %d bytes: %v", got, n, err)
		}
	}
	return string(p)
}

// Ending reads to the end and returns what that was.
func Ending(t *testing.T, c *stack.Conn) error {
	t.Helper()
	for {
		if err := Await(t, c, func() error {
			_, err := c.TryRead(make([]byte, 4096))
			return err
		}); err != nil {
			return err
		}
	}
}

// Write hands the connection all of a text.
func Write(t *testing.T, c *stack.Conn, text string) {
	t.Helper()
	for rest := []byte(text); len(rest) > 0; {
		if err := Await(t, c, func() error {
			n, err := c.TryWrite(rest)
			rest = rest[n:]
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// CloseWrite has the connection send its FIN.
func CloseWrite(t *testing.T, c interface{ CloseWrite() error }) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// Within polls until ok, for what tells of itself by no event.
func Within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// IsState asks whether the connection is in a state, for Within.
func IsState(c *stack.Conn, name string) func() bool {
	return func() bool { return c.State() == name }
}
