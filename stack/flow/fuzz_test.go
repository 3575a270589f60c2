package flow_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// FuzzCarried plays what a script says to a table with two carried connections, of
// a client with IPv4 and one with IPv6: segments near to what is right, frames of
// any bytes, ICMP errors, time that passes. What is forwarded must be a right
// segment for the peer, with the numbers that it knows; at the end nothing may be
// left.
func FuzzCarried(f *testing.F) {
	legal := func(side, size byte) []byte { return []byte{opLegal | side, flagACK, size} }
	bend := func(side, flags byte, seq, ack int8, options ...byte) []byte {
		return append([]byte{opSegment | side, flags, byte(seq), 0, byte(ack), 0, 200, byte(len(options))}, append(options, 4)...)
	}
	const client, backend, six = 0, 8, 16
	sack := []byte{1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	stamps := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	for _, script := range [][][]byte{
		{legal(client, 20), legal(backend, 30), {opLegal | client, flagACK | flagFIN, 0}, {opLegal | backend, flagACK | flagFIN, 0}, legal(client, 0)},
		{legal(client|six, 20), legal(backend|six, 30), {opLegal | backend | six, flagACK | flagFIN, 0}, {opLegal | client | six, flagRST, 0}},
		{bend(client, flagACK, 3, 0, sack...), bend(backend, flagACK, -1, 5, sack...), bend(client|six, flagACK, 1, 1, stamps...), {opTime, 200}, legal(client, 9)},
		{bend(client, flagRST, 0, 0), bend(client, flagSYN, 100, 0), {opTime, 50}, bend(backend|six, flagSYN|flagACK, 0, 0)},
		{{opIcmp | client, 1, 0, 0, 0}, {opIcmp | backend | six, 0, 40, 0, 0}, {opIcmp | client | six, 0, 90, 0, 0}, legal(backend, 63)},
		{{opRaw | client, 44, 0x45, 0, 0, 44}, {opRaw | backend | six, 64, 0x60}},
	} {
		f.Add(slices.Concat(script...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		p := newPlay(t)
		defer p.table.Close()
		aged := len(script) > 0 && script[len(script)-1]%8 == 0
		for len(script) > 0 {
			script = p.step(script)
		}
		if !aged {
			return // which takes long
		}
		p.clock.Advance(5 * time.Minute)
		if n := p.table.Carried(); n != 0 {
			t.Errorf("%d connections are carried after five minutes of silence", n)
		}
		if n := p.table.Len(); n != 0 {
			t.Errorf("%d flows are left after five minutes of silence: %v", n, p.table.States())
		}
	})
}

// What a script's byte says, with the side in bit 3 and the family in bit 4.
const (
	opSegment = 0 // with numbers beside the right ones, or 1
	opLegal   = 2 // with the right ones, or 3
	opTime    = 4 // passes
	opIcmp    = 5
	opRaw     = 6 // of any bytes, or 7
)

// play is a duct with two connections.
type play struct {
	*duct
	t   *testing.T
	two [2]*player
}

// player is one of them, as its peers know it.
type player struct {
	client, at, own netip.AddrPort
	seq             [2]uint32 // next of the client, and of the backend
	shift           uint32    // from the client's numbers to those that the backend sees
	back            uint32    // and the other way
	fresh           bool      // a SYN was forwarded, and no SYN-ACK yet
}

func newPlay(t *testing.T) *play {
	p := &play{duct: newDuct(t), t: t}
	six := netip.MustParseAddrPort("[2001:db8::1]:80")
	p.table.Listen(six, "default")
	p.table.Carry(six, "web", tcpinfo.Direct)
	p.table.Start(nil, nil)
	p.two[0] = &player{client: netip.MustParseAddrPort("172.16.0.9:10000"), at: ductAt}
	p.two[1] = &player{client: netip.MustParseAddrPort("[2001:db8::9]:10000"), at: six}
	for _, x := range p.two {
		x.seq = [2]uint32{1000, 7000}
		p.send(x, 0, lab.Craft{Flags: lab.SYN})
		p.send(x, 1, lab.Craft{Flags: lab.SYN | lab.ACK})
		p.send(x, 0, lab.Craft{Flags: lab.ACK})
		if x.seq != [2]uint32{1001, 7001} {
			t.Fatalf("there is no connection of %s: %+v", x.client, x)
		}
	}
	return p
}

// send shows a segment with the next numbers, and those of c added.
func (p *play) send(x *player, from int, c lab.Craft) {
	ends, ack := [2]netip.AddrPort{x.client, x.at}, x.seq[1]+x.back
	if from == 1 {
		ends, ack = [2]netip.AddrPort{ductBackend, x.own}, x.seq[0]+x.shift
	}
	exact := c.Seq == 0
	c.Src, c.Dst, c.Seq, c.Ack = ends[0], ends[1], c.Seq+x.seq[from], c.Ack+ack
	if c.Flags&lab.ACK == 0 {
		c.Ack = 0
	}
	if c.Win == 0 {
		c.Win = 64000
	}
	if p.show(x, from, packetOf(c.Frame()), &c) && exact {
		x.seq[from] += uint32(len(c.Payload))
		if c.Flags&(lab.SYN|lab.FIN) != 0 {
			x.seq[from]++
		}
	}
}

// show shows a packet, and looks at what becomes of it; c is what it was made of, if it is a segment.
func (p *play) show(x *player, from int, packet []byte, c *lab.Craft) (forwarded bool) {
	card := [...]*flow.Card{p.wan, p.lan}[from]
	f := &frame.Frame{Eth: make([]byte, 14), Net: packet, Room: p.room[:]}
	f.Eth[12], f.Eth[13] = 8, 0
	if packet[0]>>4 == 6 {
		f.Eth[12], f.Eth[13] = 0x86, 0xdd
	}
	if card.Inbound(f) != frame.Forward {
		return false
	}
	got := read(p.t, f)
	if c == nil {
		return true
	}
	shift, back := x.shift, x.back
	switch {
	case from == 0 && c.Flags&(lab.SYN|lab.ACK|lab.RST) == lab.SYN && (got.src != x.own || got.seq-c.Seq != shift):
		x.own, x.shift, x.fresh = got.src, got.seq-c.Seq, true // a new connection
		return true
	case from == 1 && c.Flags&(lab.SYN|lab.ACK|lab.RST) == lab.SYN|lab.ACK && x.fresh:
		x.back, x.fresh = got.seq-c.Seq, false
		return true
	case from == 0 && (got.src != x.own || got.dst != ductBackend || got.to != "lan0"),
		from == 1 && (got.src != x.at || got.dst != x.client || got.to != "wan0"):
		p.t.Fatalf("%+v is forwarded from %s to %s by %s", c, got.src, got.dst, got.to)
	case from == 1:
		shift, back = back, shift
	}
	if got.seq-c.Seq != shift {
		p.t.Fatalf("%+v is forwarded with sequence number %d, want %d", c, got.seq, c.Seq+shift)
	}
	if got.flags&flagACK != 0 && got.ack-c.Ack != -back {
		p.t.Fatalf("%+v is forwarded with acknowledgement number %d, want %d", c, got.ack, c.Ack-back)
	}
	if c.Flags&lab.SYN == 0 && string(got.data) != string(c.Payload) { // what comes with a SYN comes once more
		p.t.Fatalf("%+v is forwarded with the data % x", c, got.data)
	}
	return true
}

// packetOf takes the Ethernet header off, which has no addresses here.
func packetOf(whole []byte) []byte { return whole[2:] }

// step does what a script begins with, and returns the rest of it.
func (p *play) step(script []byte) []byte {
	next := func() (b byte) {
		if len(script) > 0 {
			b, script = script[0], script[1:]
		}
		return b
	}
	take := func(n int) []byte {
		n = min(n, len(script))
		some := script[:n]
		script = script[n:]
		return some
	}
	far := func() uint32 { return uint32(int8(next())) << (next() % 25) }
	op := next()
	from, x := int(op>>3&1), p.two[op>>4&1]
	switch op & 7 {
	case opSegment, opSegment + 1:
		c := lab.Craft{Flags: lab.Flags(next()), Seq: far(), Ack: far(), Win: uint16(next()) << 8}
		c.Options = slices.Clone(take(int(next()) % 41))
		c.Payload = make([]byte, next()%64)
		p.send(x, from, c)
	case opLegal, opLegal + 1:
		p.send(x, from, lab.Craft{Flags: lab.Flags(next()), Payload: make([]byte, next()%64)})
	case opTime:
		p.clock.Advance(time.Duration(next()) * 20 * time.Millisecond)
	case opIcmp:
		p.icmp(x, from, next(), uint16(next())<<4, far())
	default:
		raw := slices.Clone(take(20 + int(next())%64))
		if len(raw) >= 20 {
			p.show(x, from, p.aim(x, from, raw), nil)
		}
	}
	return script
}

// icmp is a router's error about a segment that was forwarded, or was not.
func (p *play) icmp(x *player, from int, code byte, mtu uint16, seq uint32) {
	about := lab.Craft{Src: x.at, Dst: x.client, Flags: lab.ACK, Seq: x.seq[1] + x.back + seq}
	router := netip.MustParseAddr("10.9.9.9")
	switch {
	case from == 1:
		about = lab.Craft{Src: x.own, Dst: ductBackend, Flags: lab.ACK, Seq: x.seq[0] + x.shift + seq}
	case x.at.Addr().Is6():
		router = netip.MustParseAddr("2001:db8:9::9")
	}
	p.show(x, from, packetOf(about.Unreachable(router, code, mtu)), nil)
}

// aim makes a packet of any bytes one about a connection, as far as it is one.
func (p *play) aim(x *player, from int, q []byte) []byte {
	src, dst := x.client, x.at
	if from == 1 {
		src, dst = ductBackend, x.own
	}
	switch {
	case q[0] == 0x45 && src.Addr().Is4() && len(q) >= 40:
		copy(q[12:], src.Addr().AsSlice())
		copy(q[16:], dst.Addr().AsSlice())
		q[10], q[11] = 0, 0
		binary.BigEndian.PutUint16(q[10:], ^frame.Sum(q[:20], 0))
	case q[0]>>4 == 6 && src.Addr().Is6() && len(q) >= 60:
		copy(q[8:], src.Addr().AsSlice())
		copy(q[24:], dst.Addr().AsSlice())
	}
	if l, ok := frame.Parse(q); ok && !l.Fragment && l.Protocol == frame.ProtoTCP && l.End-l.Transport >= 20 {
		tcp := q[l.Transport:]
		binary.BigEndian.PutUint16(tcp, src.Port())
		binary.BigEndian.PutUint16(tcp[2:], dst.Port())
		tcp[16], tcp[17] = 0, 0
		binary.BigEndian.PutUint16(tcp[16:], l.TransportSum(q))
	}
	return q
}
