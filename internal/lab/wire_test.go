package lab_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// limit bounds a test's waiting; it only runs out when something is broken.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// families are the addresses of the two ends in both versions of IP.
var families = []struct{ name, a, b, prefix string }{
	{"ipv4", "10.9.0.1", "10.9.0.2", "/24"},
	{"ipv6", "fd09::1", "fd09::2", "/64"},
}

// pair makes two hosts joined by a wire, with addresses of both families.
func pair(t *testing.T) (a, b *lab.Host) {
	t.Helper()
	a, b = labtest.Host(t, "a"), labtest.Host(t, "b")
	labtest.Wire(t, a, "eth0", b, "eth0")
	address(t, a, b)
	return a, b
}

// impairedPair is pair over a line with faults.
func impairedPair(t *testing.T, im lab.Impairment) (a, b *lab.Host, l *lab.ImpairedLink) {
	t.Helper()
	a, b = labtest.Host(t, "a"), labtest.Host(t, "b")
	l = labtest.WireImpaired(t, a, "eth0", b, "eth0", im)
	address(t, a, b)
	return a, b, l
}

func address(t *testing.T, a, b *lab.Host) {
	t.Helper()
	for _, f := range families {
		labtest.Addr(t, a, "eth0", f.a+f.prefix)
		labtest.Addr(t, b, "eth0", f.b+f.prefix)
	}
}

func TestWireCarriesAWordBothWays(t *testing.T) {
	a, b := pair(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { sayHello(t, a, b, f.b) })
	}
}

// sayHello connects from a to b and exchanges one word.
func sayHello(t *testing.T, a, b *lab.Host, to string) {
	t.Helper()
	l, err := b.Listen(limit(t), "tcp", net.JoinHostPort(to, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.Dial(limit(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go io.Copy(s, s) // ends with the connection
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != "hello" {
		t.Errorf("got %q, want %q", got, "hello")
	}
}
