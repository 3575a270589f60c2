package stack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/stack"
)

// hand is a peer whose every segment is written by the test. It shares a wire
// with the stack and has no TCP of its own.
type hand struct {
	*testing.T
	s        *stranger
	from, to netip.AddrPort
	iss, irs uint32
	ts       bool
	tsVal    uint32 // our clock
	tsEcr    uint32 // the box's last
	win      uint16
}

const (
	handISS = 100_000
	handTS  = 50_000_000
)

// hand makes a peer at a port of its own address, which talks to one of the box.
func (r *rig) hand(t *testing.T, port uint16, to netip.AddrPort) *hand {
	t.Helper()
	s := r.stranger(t, labtest.Raw(t, r.peer, "eth0"), "10.9.0.77")
	return &hand{T: t, s: s, from: netip.AddrPortFrom(s.addr, port), to: to, iss: handISS, tsVal: handTS, win: 65535}
}

func option(kind byte, data ...byte) []byte {
	return append([]byte{kind, byte(2 + len(data))}, data...)
}

func stamp(val, ecr uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

// craft is a segment of the peer's: its sequence numbers count from the ISNs.
func (h *hand) craft(flags lab.Flags, seq, ack uint32, data string) lab.Craft {
	c := lab.Craft{SrcMAC: h.s.mac, DstMAC: h.s.box, Src: h.from, Dst: h.to, Flags: flags,
		Seq: h.iss + seq, Win: h.win, Payload: []byte(data)}
	if flags.Has(lab.ACK) {
		c.Ack = h.irs + ack
	}
	if h.ts {
		c.Options = stamp(h.tsVal, h.tsEcr)
	}
	return c
}

func (h *hand) send(c lab.Craft) { h.Helper(); h.s.send(h.T, c.Frame()) }

// say sends a segment as it should be.
func (h *hand) say(flags lab.Flags, seq, ack uint32, data string) {
	h.Helper()
	h.send(h.craft(flags, seq, ack, data))
}

// open is the three-way handshake; options are those of the SYN.
func (h *hand) open(options ...byte) lab.Segment {
	h.Helper()
	h.ts = false
	c := h.craft(lab.SYN, 0, 0, "")
	c.Options = options
	h.send(c)
	s := h.hear("SYN-ACK", func(s lab.Segment) bool { return s.Flags == lab.SYN|lab.ACK })
	h.irs = s.Seq
	if val, ok := stampOf(s); ok {
		h.ts, h.tsEcr = true, val
	}
	h.say(lab.ACK, 1, 1, "")
	return s
}

// full are the options of a modern SYN.
func full() []byte {
	o := append(option(2, 5, 0xb4), option(3, 7)...)
	return append(append(o, option(4)...), stamp(handTS, 0)...)
}

// stampOf is the timestamp in a segment.
func stampOf(s lab.Segment) (val uint32, ok bool) {
	for o := s.Options; len(o) > 0; {
		switch {
		case o[0] == 0:
			return 0, false
		case o[0] == 1:
			o = o[1:]
			continue
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return 0, false
		case o[0] == 8 && o[1] == 10:
			return binary.BigEndian.Uint32(o[2:]), true
		}
		o = o[o[1]:]
	}
	return 0, false
}

// ours reports whether a segment belongs to this connection.
func (h *hand) ours(s lab.Segment) bool { return s.Dst == h.from && s.Src == h.to }

// hear waits for a segment of the box.
func (h *hand) hear(what string, match func(lab.Segment) bool) lab.Segment {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 5*time.Second)
	defer cancel()
	s, err := h.s.raw.RecvSegment(ctx, func(s lab.Segment) bool { return h.ours(s) && match(s) })
	if err != nil {
		h.Fatalf("no %s: %v", what, err)
	}
	return s
}

// hearACK waits for an ACK without data, which tells where the box is: what it
// sends next and expects next, from the ISNs.
func (h *hand) hearACK(seq, ack uint32) {
	h.Helper()
	s := h.hear("ACK", func(s lab.Segment) bool { return s.Flags == lab.ACK && s.Len == 0 })
	if s.Seq-h.irs != seq || s.Ack-h.iss != ack {
		h.Errorf("an ACK with <SEQ=%d><ACK=%d>, want <SEQ=%d><ACK=%d>", s.Seq-h.irs, s.Ack-h.iss, seq, ack)
	}
}

// silent checks that the box says nothing that matches.
func (h *hand) silent(what string, match func(lab.Segment) bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 300*time.Millisecond)
	defer cancel()
	s, err := h.s.raw.RecvSegment(ctx, func(s lab.Segment) bool { return h.ours(s) && match(s) })
	if err == nil {
		h.Errorf("%s: %v", what, s)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		h.Fatal(err)
	}
}

func any(lab.Segment) bool { return true }

// met is a connection from a hand-made peer, after its handshake.
func met(t *testing.T, w want, policy string, options ...byte) (*rig, *hand, *stack.Conn) {
	t.Helper()
	r := newRig(t, w)
	l := r.listen(t, box4, 80, policy)
	h := r.hand(t, 5000, l.Addr())
	h.open(options...)
	return r, h, accept(t, l)
}
