package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestCaptureSeesAConnectionFromSYNToTheLastACK(t *testing.T) {
	a, b, _ := impairedPair(t, lab.Impairment{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := labtest.Capture(t, a, "eth0")
			s := labtest.BulkServer(t, b, net.JoinHostPort(f.b, "0"), lab.Blob{Size: 1000}, lab.Blob{})
			if _, err := lab.Bulk(limit(t), a, s.Addr(), lab.Blob{}, lab.Blob{Size: 1000}); err != nil {
				t.Fatal(err)
			}
			var fins [2]lab.Segment
			for i, outgoing := range []bool{false, true} {
				var err error
				fins[i], err = c.Await(limit(t), func(s lab.Segment) bool { return s.Flags.Has(lab.FIN) && s.Outgoing == outgoing })
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Await(limit(t), func(s lab.Segment) bool { return !s.Outgoing && s.Ack == fins[1].Seq+uint32(fins[1].Len)+1 }); err != nil {
				t.Fatalf("the last ACK: %v", err)
			}
			checkTalk(t, c.Segments(), netip.MustParseAddrPort(s.Addr()))
		})
	}
}

// checkTalk wants a handshake, 1000 bytes from the server, and good checksums.
func checkTalk(t *testing.T, all []lab.Segment, server netip.AddrPort) {
	t.Helper()
	if len(all) < 5 || all[0].Flags != lab.SYN || all[1].Flags != lab.SYN|lab.ACK || all[2].Flags != lab.ACK {
		t.Fatalf("got %v, want a handshake first", all)
	}
	bytes := 0
	for _, s := range all {
		if !s.Complete {
			t.Errorf("got %v with a wrong checksum", s)
		}
		if s.Src == server {
			bytes += s.Len
		}
		if s.Outgoing == (s.Src == server) {
			t.Errorf("got %v as outgoing %v", s, s.Outgoing)
		}
	}
	if bytes != 1000 {
		t.Errorf("got %d bytes of data, want 1000", bytes)
	}
}

func TestAwaitEndsWithItsContextAndWithTheCapture(t *testing.T) {
	a, _ := pair(t)
	c := labtest.Capture(t, a, "eth0")
	never := func(lab.Segment) bool { return false }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Await(ctx, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(limit(t), never); err == nil {
		t.Error("got nil from a closed capture, want an error")
	}
}

func TestPcapHoldsEveryFrame(t *testing.T) {
	a, b := pair(t)
	c := labtest.Capture(t, a, "eth0")
	sayHello(t, a, b, families[0].b)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := c.WritePcap(&file); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if got := le.Uint32(file.Next(24)); got != 0xa1b23c4d {
		t.Fatalf("got magic %#x, want the one of nanoseconds", got)
	}
	for i, f := range c.Frames() {
		head := file.Next(16)
		data := file.Next(int(le.Uint32(head[8:])))
		if !bytes.Equal(data, f.Data) || int64(le.Uint32(head)) != f.Time.Unix() || int(le.Uint32(head[12:])) != f.Length {
			t.Errorf("frame %d: got %x %x, want what was captured", i, head, data)
		}
	}
	if len(c.Frames()) == 0 || file.Len() != 0 {
		t.Errorf("got %d frames and %d bytes left, want some and none", len(c.Frames()), file.Len())
	}
}

func TestParseSegmentRefusesWhatIsNone(t *testing.T) {
	_, frame := superFrame(10, 1460)
	for n := range 54 {
		if _, ok := lab.ParseSegment(frame[:n]); ok {
			t.Errorf("got a segment of %d bytes", n)
		}
	}
	s, ok := lab.ParseSegment(append(frame, 0, 0)) // padded
	if !ok || s.Len != 10 || s.Seq != 5000 || s.Flags.String() != "." {
		t.Errorf("got %v, %v, want 10 bytes from 5000", s, ok)
	}
}

func FuzzParseSegment(f *testing.F) {
	_, frame := superFrame(10, 1460)
	f.Add(frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := lab.ParseSegment(b); ok && len(s.Payload) > s.Len {
			t.Errorf("got %d bytes of payload in %v", len(s.Payload), s)
		}
	})
}

func TestHandMadeSYNIsAnswered(t *testing.T) {
	a, b := pair(t)
	s := labtest.Echo(t, b, families[0].b+":2000")
	r := labtest.Raw(t, a, "eth0")
	link, err := b.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	// From an address that a's kernel does not have, or it would reset.
	vnet, frame := superFrame(0, 1460)
	copy(frame, link.MAC)
	if err := b.AddNeighbor("eth0", netip.MustParseAddr("10.9.0.1"), frame[6:12]); err != nil {
		t.Fatal(err)
	}
	frame[14+20+13] = byte(lab.SYN)
	if err := r.SendVnet(vnet, frame); err != nil {
		t.Fatal(err)
	}
	got, err := r.RecvSegment(limit(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Flags != lab.SYN|lab.ACK || got.Ack != 5001 || got.Src.String() != s.Addr() {
		t.Errorf("got %v, want the SYN of 5000 answered by %s", got, s.Addr())
	}
}

func TestRecvEndsWithItsContext(t *testing.T) {
	ra, rb, _ := silentPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := ra.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if err := rb.Send(numbered(5)); err != nil {
		t.Fatal(err)
	}
	if f, err := ra.Recv(limit(t)); err != nil || numberOf(f.Data) != 5 {
		t.Errorf("got %v, %v after that, want frame 5", f, err)
	}
	if err := ra.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ra.Recv(limit(t)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v after Close, want %v", err, os.ErrClosed)
	}
}

func TestTapExchangesFramesWithTheKernel(t *testing.T) {
	h := labtest.Host(t, "h")
	labtest.Sysctl(t, h, "net.ipv6.conf.default.disable_ipv6", "1")
	tap := labtest.Tap(t, h, "tap0")
	labtest.Addr(t, h, "tap0", "10.9.0.2/24")
	question := []byte{
		255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2,
	}
	if _, err := tap.Write(question); err != nil {
		t.Fatal(err)
	}
	if err := tap.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 2000)
	n, err := tap.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	link, err := h.Link("tap0")
	if err != nil {
		t.Fatal(err)
	}
	if n < 42 || !bytes.Equal(answer[:6], question[6:12]) || !bytes.Equal(answer[22:28], link.MAC) {
		t.Errorf("got %x, want an ARP answer with %s", answer[:n], link.MAC)
	}
}

func TestServerCountsAWrongBlob(t *testing.T) {
	a, b := pair(t)
	s := labtest.BulkServer(t, b, families[0].b+":0", lab.Blob{}, lab.Blob{Seed: 1, Size: 10})
	c, err := a.Dial(limit(t), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	expect(t, "a failed connection", func() bool { n, err := s.Errors(); return n == 1 && err != nil })
}

// expect polls until ok, for things that end a moment later.
func expect(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got none, want %s", what)
		}
	}
}
