package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/stack"
)

// peer is the other end of a connection, whose every segment the test writes.
// It has no TCP of its own; while it listens it answers ARP and neighbour
// solicitations for its address.
type peer struct {
	*testing.T
	b        *box
	from, to netip.AddrPort
	iss, irs uint32 // sequence numbers are counted from these
	win      uint16
	shift    byte   // of the windows that the box offers
	ts       bool   // every segment has a timestamp
	val, ecr uint32 // our clock, the box's last
}

const (
	port   = 80
	peerTS = 50_000_000
)

// peer makes one at a port of its own address, for one of the box's addresses.
func (b *box) peer(t *testing.T, to netip.Addr, from uint16) *peer {
	t.Helper()
	addr := peer4
	if to.Is6() {
		addr = peer6
	}
	p := &peer{T: t, b: b, from: netip.AddrPortFrom(addr, from), to: netip.AddrPortFrom(to, port), iss: 100_000, win: 65535, val: peerTS}
	p.announce()
	return p
}

// open is a connection from a peer to a listener of the box.
func (b *box) open(t *testing.T, to netip.Addr, options ...byte) (*peer, *stack.Conn) {
	t.Helper()
	l := b.listen(t, to)
	p := b.peer(t, to, 5000)
	p.handshake(options...)
	return p, accept(t, l)
}

func (b *box) listen(t *testing.T, at netip.Addr) *stack.Listener {
	t.Helper()
	l, err := b.Listen(netip.AddrPortFrom(at, port), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // some tests close it before
	return l
}

// dial has the box dial a peer, and returns when its SYN has come.
func (b *box) dial(t *testing.T, p *peer) (*stack.Conn, lab.Segment) {
	t.Helper()
	c, err := b.Dial(p.from, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	p.to = c.LocalAddr()
	s := p.expect("a SYN", func(s lab.Segment) bool { return s.Flags == lab.SYN })
	p.irs = s.Seq
	return c, s
}

// met is a box and a connection to it, after the handshake.
func met(t *testing.T, change func(*config.Policy), options ...byte) (*box, *peer, *stack.Conn) {
	t.Helper()
	b := newBox(t, change)
	p, c := b.open(t, box4, options...)
	return b, p, c
}

// handshake is the three-way handshake of one who dials; options are the SYN's.
func (p *peer) handshake(options ...byte) lab.Segment {
	p.Helper()
	p.ts = false
	syn := p.craft(lab.SYN, 0, 0, "")
	syn.Options = options
	p.send(syn)
	s := p.expect("a SYN-ACK", isSYNACK)
	p.irs, p.shift = s.Seq, 0
	if data, ok := optionOf(s, 3); ok {
		p.shift = data[0]
	}
	if data, ok := optionOf(s, 8); ok {
		p.ts, p.ecr = true, binary.BigEndian.Uint32(data)
	}
	p.say(lab.ACK, 1, 1, "")
	return s
}

// craft is a segment as it should be; numbers count from the ISNs.
func (p *peer) craft(flags lab.Flags, seq, ack uint32, data string) lab.Craft {
	c := lab.Craft{SrcMAC: p.b.peerMAC, DstMAC: p.b.mac, Src: p.from, Dst: p.to, Flags: flags, Seq: p.iss + seq, Win: p.win, Payload: []byte(data)}
	if flags.Has(lab.ACK) {
		c.Ack = p.irs + ack
	}
	if p.ts {
		c.Options = stamp(p.val, p.ecr)
	}
	return c
}

func (p *peer) send(c lab.Craft) { p.Helper(); p.frame(c.Frame()) }

func (p *peer) frame(f []byte) {
	p.Helper()
	if err := p.b.wire.Send(f); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) say(flags lab.Flags, seq, ack uint32, data string) {
	p.Helper()
	p.send(p.craft(flags, seq, ack, data))
}

// next is the next segment of the box that matches, if one comes in time.
func (p *peer) next(match func(lab.Segment) bool, wait time.Duration) (lab.Segment, bool) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), wait)
	defer cancel()
	for {
		f, err := p.b.wire.Recv(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return lab.Segment{}, false
		}
		if err != nil {
			p.Fatal(err)
		}
		if s, ok := f.Segment(); ok {
			if s.Src == p.to && s.Dst == p.from && match(s) {
				return s, true
			}
			continue
		}
		p.neighbour(f.Data)
	}
}

func (p *peer) expect(what string, match func(lab.Segment) bool) lab.Segment {
	p.Helper()
	s, ok := p.next(match, 8*time.Second)
	if !ok {
		p.Fatalf("no %s came", what)
	}
	return s
}

// expectACK waits for an ACK without data that tells where the box is.
func (p *peer) expectACK(seq, ack uint32) lab.Segment {
	p.Helper()
	s := p.expect("ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Len == 0 })
	if s.Seq-p.irs != seq || s.Ack-p.iss != ack {
		p.Errorf("an ACK with <SEQ=%d><ACK=%d>, want <SEQ=%d><ACK=%d>", s.Seq-p.irs, s.Ack-p.iss, seq, ack)
	}
	return s
}

// fill sends segments of size bytes until the box closes its window.
func (p *peer) fill(size uint32) (sent uint32) {
	p.Helper()
	for {
		p.say(lab.ACK|lab.PSH, 1+sent, 1, strings.Repeat("x", int(size)))
		s := p.expect("ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Ack-p.iss > sent })
		sent = s.Ack - p.iss - 1
		if s.Win == 0 {
			return sent
		}
		size = min(size, uint32(s.Win)<<p.shift)
		if sent > 16<<20 {
			p.Fatal("the window never closes")
		}
	}
}

// expectNothing checks that the box says nothing that matches.
func (p *peer) expectNothing(what string, match func(lab.Segment) bool) {
	p.Helper()
	if s, came := p.next(match, 300*time.Millisecond); came {
		p.Errorf("%s: %v", what, s)
	}
}

func anything(lab.Segment) bool   { return true }
func hasData(s lab.Segment) bool  { return s.Len > 0 }
func isFIN(s lab.Segment) bool    { return s.Flags.Has(lab.FIN) }
func isRST(s lab.Segment) bool    { return s.Flags.Has(lab.RST) }
func isSYNACK(s lab.Segment) bool { return s.Flags == lab.SYN|lab.ACK }

func option(kind byte, data ...byte) []byte {
	return append([]byte{kind, byte(2 + len(data))}, data...)
}

// modern are the options of a modern SYN.
func modern() []byte {
	o := append(mss(1460), option(3, 7)...)
	return append(append(o, option(4)...), stamp(peerTS, 0)...)
}

func mss(n uint16) []byte { return option(2, byte(n>>8), byte(n)) }

func stamp(val, ecr uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

// optionOf is the value of an option of a segment.
func optionOf(s lab.Segment, kind byte) (data []byte, found bool) {
	for o := s.Options; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return nil, false
		}
		if o[0] == kind {
			return o[2:o[1]], true
		}
		o = o[o[1]:]
	}
	return nil, false
}
