package stack_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// move makes another stack of the rig's connections. It has to have a line,
// that is cut meanwhile.
func (r *rig) move(t *testing.T, conns ...*stack.Conn) (*rig, *stack.Loaded) {
	t.Helper()
	if err := r.card.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	err := r.Save(&image, conns)
	r.Resume()
	if err != nil {
		t.Fatal(err)
	}
	next := &rig{box: r.box, peer: r.peer, line: r.line, gate: &stack.Gate{}, clock: stack.NewClock(r.clock.Since())}
	next.flows = flow.New(flow.Options{Policies: policies()})
	next.card = openCard(t, r.box, "eth0", next.gate, next.flows.Card())
	card := config.Interface{Name: "eth0", Addresses: prefixes(box4.String()+"/24", box6.String()+"/64")}
	next.Stack, err = stack.New(limit(t), stack.Options{
		Config: &config.Config{Interfaces: []config.Interface{card}, Policies: policies()},
		Links:  []stack.Link{{Interface: card, Endpoint: next.card.Port(0)}},
		Gate:   next.gate, Flows: next.flows, Owned: true, Clock: next.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.close)
	loaded, err := next.Load(bufio.NewReader(&image))
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Lost) > 0 {
		t.Fatalf("lost: %v", loaded.Lost)
	}
	return next, loaded
}

// Every connection goes on in another stack where it was: bytes that were read
// and not taken, bytes that were never acknowledged, halves that are closed.
func TestConnectionsGoOnInAnotherStack(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{line: true})
	l4, l6 := r.listen(t, box4, 80, "default"), r.listen(t, box6, 80, "default")
	idle, idleEnd := r.accepted(t, l4)
	six, sixEnd := r.accepted(t, l6)
	unread, unreadEnd := r.accepted(t, l4)
	unacked, unackedEnd := r.accepted(t, l4)
	theyClosed, theyClosedEnd := r.accepted(t, l4)
	weClosed, weClosedEnd := r.accepted(t, l4)
	full, fullEnd := r.accepted(t, l4)
	letGo, letGoEnd := r.accepted(t, l4)
	early, earlyEnd := r.accepted(t, l4)
	server, err := r.peer.Listen(limit(t), "tcp", peer4.String()+":99")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	dialled, err := r.dial(t, netip.AddrPortFrom(peer4, 99), "default")
	if err != nil {
		t.Fatal(err)
	}
	dialledEnd, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer dialledEnd.Close()

	sayTo(t, unreadEnd, "read me later")
	within(t, 5*time.Second, "what is unread", func() bool { return unread.Info().RcvQueue == 13 })
	closeWrite(t, theyClosedEnd)
	within(t, 5*time.Second, "their FIN", isState(theyClosed, "CLOSE-WAIT"))
	closeWrite(t, weClosed)
	within(t, 5*time.Second, "our FIN", isState(weClosed, "FIN-WAIT-2"))
	stuffed := stuff(t, full)
	r.line.Cut()
	sayTo(t, earlyEnd, "first, ") // is lost, and comes again later than the second
	time.Sleep(5 * time.Millisecond)
	r.line.Mend()
	sayTo(t, earlyEnd, "second")
	time.Sleep(20 * time.Millisecond)
	r.line.Cut()
	write(t, unacked, "say it again")
	closeWrite(t, letGo)
	letGo.Close()

	next, loaded := r.move(t, idle, six, unread, unacked, theyClosed, weClosed, full, dialled, early)
	if loaded.Orphans != 1 || len(loaded.Conns) != 9 {
		t.Fatalf("%d connections and %d that were let go of", len(loaded.Conns), loaded.Orphans)
	}
	next.listen(t, box4, 80, "default")
	asked := labtest.Capture(t, r.peer, "eth0")
	r.line.Mend()
	loaded.Go()
	conn := func(c *stack.Conn) *stack.Conn {
		t.Helper()
		n := loaded.Conns[c.ID()]
		if n == nil || n.LocalAddr() != c.LocalAddr() || n.RemoteAddr() != c.RemoteAddr() || n == c {
			t.Fatalf("%v became %v", c.RemoteAddr(), n)
		}
		return n
	}
	for _, pair := range []struct {
		c   *stack.Conn
		end net.Conn
	}{{conn(idle), idleEnd}, {conn(six), sixEnd}, {conn(dialled), dialledEnd}} {
		sayTo(t, pair.end, "ping")
		if got := read(t, pair.c, 4); got != "ping" {
			t.Errorf("heard %q", got)
		}
		write(t, pair.c, "pong")
		if got := hear(t, pair.end, 4); got != "pong" {
			t.Errorf("the peer heard %q", got)
		}
	}
	if got := read(t, conn(unread), 13); got != "read me later" {
		t.Errorf("heard %q", got)
	}
	if got := hear(t, unackedEnd, 12); got != "say it again" {
		t.Errorf("the peer heard %q", got)
	}
	if got := read(t, conn(early), 13); got != "first, second" {
		t.Errorf("heard %q", got)
	}
	if err := ending(t, conn(theyClosed)); err != io.EOF {
		t.Errorf("who had finished reads as %v", err)
	}
	write(t, conn(theyClosed), "and you?")
	if got := hear(t, theyClosedEnd, 8); got != "and you?" {
		t.Errorf("the peer heard %q", got)
	}
	sayTo(t, weClosedEnd, "still here")
	if got := read(t, conn(weClosed), 10); got != "still here" {
		t.Errorf("heard %q", got)
	}
	if got := hear(t, fullEnd, len(stuffed)); got != stuffed {
		t.Error("what filled the peer's window is not what it reads")
	}
	write(t, conn(full), "more")
	if got := hear(t, fullEnd, 4); got != "more" {
		t.Errorf("the peer heard %q", got)
	}
	letGoEnd.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := letGoEnd.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the FIN of who was let go of came as %v", err)
	}
	for _, f := range asked.Frames() {
		if !f.Outgoing && len(f.Data) >= 42 && bytes.Equal(f.Data[:6], broadcast) && f.Data[12] == 8 && f.Data[13] == 6 && bytes.Equal(f.Data[38:42], peer4.AsSlice()) {
			t.Error("the new stack has to ask where the peer is")
		}
	}
	for _, c := range []*stack.Conn{idle, dialled} { // each end in order, and its port is free
		n := conn(c)
		closeWrite(t, n)
		n.Close()
	}
	idleEnd.Close()
	within(t, 5*time.Second, "the end", func() bool { return conn(idle).FinAcked() })
}

// stuff writes until the peer's window is full.
func stuff(t *testing.T, c *stack.Conn) string {
	t.Helper()
	var all strings.Builder
	part := strings.Repeat("0123456789abcdef", 4096)
	for quiet := 0; quiet < 50; {
		n, _ := c.TryWrite([]byte(part))
		all.WriteString(part[:n])
		if quiet++; n > 0 {
			quiet = 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	if c.Info().SndWnd != 0 {
		t.Fatal("the window is open")
	}
	return all.String()
}

// A stack that nobody takes the connections from goes on with them.
func TestAStackGoesOnAfterItsConnectionsWereWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	l := r.listen(t, box4, 80, "default")
	var conns []*stack.Conn
	var ends []net.Conn
	for range 20 {
		c, end := r.accepted(t, l)
		conns, ends = append(conns, c), append(ends, end)
	}
	for range 3 {
		r.card.Pause()
		if err := r.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := r.Save(io.Discard, conns); err != nil {
			t.Error(err)
		}
		for _, end := range ends {
			sayTo(t, end, "meanwhile")
		}
		r.Resume()
		r.card.Resume()
		for i, end := range ends {
			if got := read(t, conns[i], 9); got != "meanwhile" {
				t.Fatalf("heard %q", got)
			}
			write(t, conns[i], "fine")
			if got := hear(t, end, 4); got != "fine" {
				t.Fatalf("the peer heard %q", got)
			}
		}
	}
	c, end := r.accepted(t, l)
	closeWrite(t, c)
	if _, err := end.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the FIN of a new one came as %v", err)
	}
}

// A sample can be read by the program that wrote it, as often as it likes, and
// one that is cut or changed is refused with one line.
func TestASampleTellsWhetherConnectionsCanBeRead(t *testing.T) {
	t.Parallel()
	var image bytes.Buffer
	for range 3 {
		image.Reset()
		if err := stack.Sample(&image); err != nil {
			t.Fatal(err)
		}
		if err := stack.TrySample(bytes.NewReader(image.Bytes())); err != nil {
			t.Error(err)
		}
	}
	whole := image.Bytes()
	other := bytes.Replace(whole, []byte("rcvMemUsed"), []byte("rcvMemLost"), 1) // as another version would name it
	if bytes.Equal(other, whole) {
		t.Fatal("the field is not in the image")
	}
	for name, bad := range map[string][]byte{"cut": whole[:len(whole)/2], "empty": nil, "other": other} {
		if err := stack.TrySample(bytes.NewReader(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
}

// What is no image of connections is refused, and the stack goes on.
func TestABadImageOfConnectionsIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, want{})
	c, _ := r.accepted(t, r.listen(t, box4, 80, "default"))
	r.card.Pause()
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	err := r.Save(&image, []*stack.Conn{c})
	r.Resume()
	r.card.Resume()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 10, image.Len() / 2, image.Len() - 1} {
		if _, err := r.Load(bufio.NewReader(bytes.NewReader(image.Bytes()[:n]))); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d of %d bytes: %v", n, image.Len(), err)
		}
	}
}
