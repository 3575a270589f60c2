package stack

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/lastack/lastack/netif/frame"
)

// Gate is a card's frame filter that refuses new connections to some
// addresses: handshakes under way finish, connections go on, the listener
// stays open. Without it, closing a listener would reset whoever has just
// arrived. A SYN that is sent again, because our answer to it was lost, looks
// like a new one and is refused.
type Gate struct {
	mu     sync.Mutex                              // guards changes of closed
	closed atomic.Pointer[map[netip.AddrPort]bool] // value: answer with RST
	held   atomic.Bool
	Count  GateCounters
}

// GateCounters counts what a Gate turned away.
type GateCounters struct {
	Reset, Ignored atomic.Uint64
}

var _ frame.Filter = (*Gate)(nil)

// Refuse turns new connections to addr away from now on: how is "rst" or "silence".
func (g *Gate) Refuse(addr netip.AddrPort, how string) {
	g.change(func(m map[netip.AddrPort]bool) { m[addr] = how == "rst" })
}

// Allow lets new connections to addr in again.
func (g *Gate) Allow(addr netip.AddrPort) {
	g.change(func(m map[netip.AddrPort]bool) { delete(m, addr) })
}

// Hold ignores every new connection while on: it is asked for again after a
// second (RFC 6298, 2.1), when somebody else may answer.
func (g *Gate) Hold(on bool) { g.held.Store(on) }

func (g *Gate) change(f func(map[netip.AddrPort]bool)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := make(map[netip.AddrPort]bool)
	if old := g.closed.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	f(next)
	if len(next) == 0 {
		g.closed.Store(nil)
		return
	}
	g.closed.Store(&next)
}

// Outbound implements frame.Filter.
func (g *Gate) Outbound(*frame.Frame) frame.Verdict { return frame.Pass }

// Inbound implements frame.Filter.
func (g *Gate) Inbound(f *frame.Frame) frame.Verdict {
	closed, held := g.closed.Load(), g.held.Load()
	if closed == nil && !held {
		return frame.Pass
	}
	l, ok := frame.Parse(f.Net)
	if !ok || l.Fragment || l.Protocol != frame.ProtoTCP || l.End-l.Transport < tcpHeader {
		return frame.Pass
	}
	const syn, ack, rst = 0x02, 0x10, 0x04
	if tcp := f.Net[l.Transport:]; tcp[13]&(syn|ack|rst) != syn {
		return frame.Pass
	}
	if held {
		g.Count.Ignored.Add(1)
		return frame.Drop
	}
	reset, refused := (*closed)[destination(f.Net, l)]
	switch {
	case !refused:
		return frame.Pass
	case !reset:
		g.Count.Ignored.Add(1)
		return frame.Drop
	case f.Meta.Flags == 0 && !l.TransportValid(f.Net):
		return frame.Pass // the card's own check counts it
	}
	g.Count.Reset.Add(1)
	turnToReset(f, l)
	return frame.Reply
}

const tcpHeader = 20

func destination(p []byte, l frame.Layout) netip.AddrPort {
	addr := p[16:20]
	if l.Version == 6 {
		addr = p[24:40]
	}
	a, _ := netip.AddrFromSlice(addr) // 4 or 16 bytes
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(p[l.Transport+2:]))
}

// turnToReset rewrites a SYN into its refusal (RFC 9293, 3.10.7.1: "If the ACK
// bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>").
func turnToReset(f *frame.Frame, l frame.Layout) {
	var mac [6]byte
	copy(mac[:], f.Eth[:6])
	copy(f.Eth[:6], f.Eth[6:12])
	copy(f.Eth[6:12], mac[:])
	p := f.Net
	data := l.End - l.Transport - int(p[l.Transport+12]>>4)*4
	size := ipHeaderFor(p, l)
	tcp := p[size : size+tcpHeader]
	in := append([]byte(nil), p[l.Transport:l.Transport+tcpHeader]...)
	clear(tcp)
	copy(tcp, in[2:4])
	copy(tcp[2:], in[:2])
	binary.BigEndian.PutUint32(tcp[8:], binary.BigEndian.Uint32(in[4:])+1+uint32(max(data, 0)))
	tcp[12] = tcpHeader / 4 << 4
	tcp[13] = 0x14 // RST, ACK
	f.Net = p[:size+tcpHeader]
	f.Meta = frame.Header{}
	out, _ := frame.Parse(f.Net) // just written
	binary.BigEndian.PutUint16(tcp[16:], out.TransportSum(f.Net))
}

// ipHeaderFor turns the IP header round for a bare TCP header behind it,
// without options or extension headers, and returns its size.
func ipHeaderFor(p []byte, l frame.Layout) int {
	if l.Version == 6 {
		var src [16]byte
		copy(src[:], p[8:24])
		copy(p[8:24], p[24:40])
		copy(p[24:40], src[:])
		binary.BigEndian.PutUint16(p[4:], tcpHeader)
		p[6], p[7] = frame.ProtoTCP, 64
		return 40
	}
	var src [4]byte
	copy(src[:], p[12:16])
	copy(p[12:16], p[16:20])
	copy(p[16:20], src[:])
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], 20+tcpHeader)
	binary.BigEndian.PutUint32(p[4:], 0x4000) // no identification needed: may not be fragmented
	p[8] = 64
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	return 20
}
