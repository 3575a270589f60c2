package flow_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// duct is a table with a card on either side, and direct connections through it
// whose segments the test writes.
type duct struct {
	clock    *faketime.ManualClock
	table    *flow.Table
	wan, lan *flow.Card
	owner    *ducts
	room     [frame.RoomSize]byte
	bytes    [14 + 60 + 60 + 64]byte
	ids      uint64
}

// ducts is the owner of the connections.
type ducts struct{ ended, back int }

var (
	ductAt      = netip.MustParseAddrPort("192.0.2.1:80")
	ductOwn     = netip.MustParseAddr("10.0.0.1")
	ductBackend = netip.MustParseAddrPort("10.0.0.2:8080")
)

func (*ducts) Choose(_, after netip.AddrPort) (netip.AddrPort, bool) {
	return ductBackend, !after.IsValid()
}
func (*ducts) Tried(netip.AddrPort, error) {}

func (*ducts) Spared(netip.AddrPort) {}
func (d *ducts) Ended(c *tcpinfo.Carried) {
	if c == nil {
		d.back++
		return
	}
	d.ended++
}

// side is a card as an outlet.
type side struct{ name string }

func (s *side) Name() string { return s.name }
func (s *side) MTU() uint32  { return 1500 }

func newDuct(t testing.TB) *duct {
	t.Helper()
	d := &duct{clock: faketime.NewManualClock(), owner: &ducts{}}
	d.table = flow.New(flow.Options{
		Policies: map[string]config.Policy{"default": config.DefaultPolicy()}, Clock: d.clock,
		IDs: func() uint64 { d.ids++; return d.ids },
	})
	d.table.Listen(ductAt, "default")
	d.table.Own("web", d.owner, flow.CarrierSettings{Policy: "default", ConnectTimeout: 5 * time.Second})
	d.table.Carry(ductAt, "web", tcpinfo.Direct)
	d.wan, d.lan = d.table.Card(), d.table.Card()
	d.wan.Bind(&side{"wan0"}, func(*frame.Frame) {})
	d.lan.Bind(&side{"lan0"}, func(*frame.Frame) {})
	d.wan.Own([6]byte{2, 1})
	d.lan.Own([6]byte{2, 2})
	d.way(t)
	return d
}

// way has the table learn how the backend is reached: by a connection of the
// stack's.
func (d *duct) way(t testing.TB) {
	t.Helper()
	own := netip.AddrPortFrom(ductOwn, 17000)
	f := d.write(own, ductBackend, flagSYN, 100, 0, nil, nil)
	if v := d.lan.Outbound(f); v != frame.Pass {
		t.Fatalf("the stack's SYN: verdict %d", v)
	}
	f = d.write(ductBackend, own, flagSYN|flagACK, 200, 101, nil, nil)
	if v := d.lan.Inbound(f); v != frame.Pass {
		t.Fatalf("its answer: verdict %d", v)
	}
}

// write makes a segment in the duct's frame.
func (d *duct) write(src, dst netip.AddrPort, flags byte, seq, ack uint32, options, data []byte) *frame.Frame {
	clear(d.bytes[:])
	p := d.bytes[14:]
	size := 20 + 20 + len(options) + len(data)
	p[0], p[8], p[9] = 0x45, 64, frame.ProtoTCP
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	tcp := p[20:]
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = byte(20+len(options))/4<<4, flags
	tcp[14], tcp[15] = 0xfa, 0xf0
	copy(tcp[20:], options)
	copy(tcp[20+len(options):], data)
	f := &frame.Frame{Eth: d.bytes[:14], Net: p[:size], Room: d.room[:]}
	if l, ok := frame.Parse(f.Net); ok {
		binary.BigEndian.PutUint16(tcp[16:], l.TransportSum(f.Net))
	}
	return f
}

// told is a segment that the table forwards, as the peer gets it.
type told struct {
	src, dst     netip.AddrPort
	flags        byte
	seq, ack     uint32
	window       uint16
	options      []byte
	data         []byte
	to           string
	eth, network []byte
}

// read takes a forwarded frame apart, and fails if it is not right.
func read(t testing.TB, f *frame.Frame) told {
	t.Helper()
	all := append(append([]byte(nil), f.Head...), f.Body...)
	r := told{eth: all[:14], network: all[14:], to: f.To.Name()}
	l, ok := frame.Parse(r.network)
	if !ok || l.Protocol != frame.ProtoTCP {
		t.Fatalf("what is forwarded is no TCP segment: % x", all)
	}
	if f.Meta.Flags&frame.NeedsCsum != 0 && !frame.Complete(&f.Meta, r.network) {
		t.Fatalf("its checksum can't be made: %+v", f.Meta)
	}
	if !l.TransportValid(r.network) {
		t.Fatalf("its checksum is wrong: % x", all)
	}
	tcp := r.network[l.Transport:]
	src, dst := r.network[12:16], r.network[16:20]
	if l.Version == 6 {
		src, dst = r.network[8:24], r.network[24:40]
	}
	r.src = addrPort(src, tcp)
	r.dst = addrPort(dst, tcp[2:])
	r.seq, r.ack, r.flags = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:]), tcp[13]
	r.window = binary.BigEndian.Uint16(tcp[14:])
	h := int(tcp[12]>>4) * 4
	r.options, r.data = tcp[20:h], tcp[h:l.End-l.Transport]
	return r
}

func addrPort(a, p []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(p))
}

// through is one connection of the duct, established.
type through struct {
	d           *duct
	client, own netip.AddrPort
	cseq, bseq  uint32 // next of the client, and of the backend
	iss, bss    uint32 // ours toward the client, and toward the backend, plus one: next
}

// open makes a connection: SYN, SYN-ACK, ACK. It is nil if the table did not
// forward.
func (d *duct) open(t testing.TB, n uint32) *through {
	t.Helper()
	c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, byte(16 + n/50000>>8), byte(n / 50000), 9}), uint16(10000+n%50000))
	f := d.write(c, ductAt, flagSYN, 1000, 0, nil, nil)
	if v := d.wan.Inbound(f); v != frame.Forward {
		t.Fatalf("the client's SYN: verdict %d", v)
	}
	syn := read(t, f)
	if syn.flags != flagSYN || syn.dst != ductBackend || syn.src.Addr() != ductOwn || syn.to != "lan0" {
		t.Fatalf("the SYN for the backend is %+v", syn)
	}
	x := &through{d: d, client: c, own: syn.src, cseq: 1001, bseq: 7001, bss: syn.seq + 1}
	f = d.write(ductBackend, x.own, flagSYN|flagACK, 7000, x.bss, nil, nil)
	if v := d.lan.Inbound(f); v != frame.Forward {
		t.Fatalf("the backend's SYN-ACK: verdict %d", v)
	}
	sa := read(t, f)
	if sa.flags != flagSYN|flagACK || sa.dst != c || sa.src != ductAt || sa.ack != 1001 || sa.to != "wan0" {
		t.Fatalf("the SYN-ACK for the client is %+v", sa)
	}
	x.iss = sa.seq + 1
	if v, _ := x.fromClient(t, flagACK, nil); v != frame.Forward {
		t.Fatalf("the client's ACK: verdict %d", v)
	}
	return x
}

// fromClient sends a segment of the client's that acknowledges all.
func (x *through) fromClient(t testing.TB, flags byte, data []byte) (frame.Verdict, *frame.Frame) {
	f := x.d.write(x.client, ductAt, flags, x.cseq, x.iss, nil, data)
	v := x.d.wan.Inbound(f)
	if v == frame.Forward {
		x.cseq += uint32(len(data)) + uint32(flags&flagFIN)
	}
	return v, f
}

func (x *through) fromBackend(t testing.TB, flags byte, data []byte) (frame.Verdict, *frame.Frame) {
	f := x.d.write(ductBackend, x.own, flags, x.bseq, x.bss, nil, data)
	v := x.d.lan.Inbound(f)
	if v == frame.Forward {
		x.bseq += uint32(len(data)) + uint32(flags&flagFIN)
	}
	return v, f
}

func TestACarriedConnectionEndsWithItsLastACK(t *testing.T) {
	d := newDuct(t)
	x := d.open(t, 1)
	for _, step := range []struct {
		client bool
		flags  byte
		data   string
	}{
		{true, flagACK, "question"}, {false, flagACK, "answer"}, {true, flagACK, ""},
		{true, flagFIN | flagACK, ""}, {false, flagFIN | flagACK, ""},
	} {
		from, next := x.fromBackend, &x.iss
		if step.client {
			from, next = x.fromClient, &x.bss
		}
		v, f := from(t, step.flags, []byte(step.data))
		if v != frame.Forward {
			t.Fatalf("%+v: verdict %d", step, v)
		}
		got := read(t, f)
		if string(got.data) != step.data || got.flags != step.flags {
			t.Errorf("%+v became %+v", step, got)
		}
		if got.seq != *next && len(step.data) > 0 {
			t.Errorf("%+v has number %d, want %d", step, got.seq, *next)
		}
		*next += uint32(len(step.data)) + uint32(step.flags&flagFIN)
	}
	if v, _ := x.fromClient(t, flagACK, nil); v != frame.Forward {
		t.Fatalf("the last ACK: verdict %d", v)
	}
	if d.owner.ended != 1 {
		t.Errorf("%d ends were told, want 1", d.owner.ended)
	}
	if n := d.table.Held(); n != 1 {
		t.Errorf("%d legs are in TIME-WAIT, want the backend's", n)
	}
	// The backend has not heard the last ACK.
	f := d.write(ductBackend, x.own, flagFIN|flagACK, x.bseq-1, x.bss, nil, nil)
	if v := d.lan.Inbound(f); v != frame.Reply {
		t.Errorf("the backend's FIN, once more: verdict %d, want an answer", v)
	}
}

// TestBlindSegmentsDoNotPass is RFC 5961 for carried connections: what an
// attacker guesses neither ends one nor gets to the other peer.
func TestBlindSegmentsDoNotPass(t *testing.T) {
	d := newDuct(t)
	x := d.open(t, 1)
	x.fromClient(t, flagACK, []byte("question"))
	for _, c := range []struct {
		name     string
		flags    byte
		seq, ack uint32
		data     string
		want     frame.Verdict
	}{
		{"RST within the window", flagRST, x.cseq + 100, 0, "", frame.Reply},
		{"RST outside of the window", flagRST, x.cseq + 1<<20, 0, "", frame.Drop},
		{"RST before the window", flagRST, x.cseq - 100, 0, "", frame.Drop},
		{"SYN", flagSYN, x.cseq, 0, "", frame.Reply},
		{"data that acknowledge what was never sent", flagACK, x.cseq, x.iss + 1<<20, "evil", frame.Reply},
		{"data that acknowledge what was sent long ago", flagACK, x.cseq, x.iss - 1<<30, "evil", frame.Reply},
		{"data outside of the window", flagACK, x.cseq + 1<<20, x.iss, "evil", frame.Reply},
		{"data without ACK", 0, x.cseq, 0, "evil", frame.Drop},
	} {
		f := d.write(x.client, ductAt, c.flags, c.seq, c.ack, nil, []byte(c.data))
		if v := d.wan.Inbound(f); v != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, v, c.want)
		}
	}
	f := d.write(x.client, ductAt, flagACK, x.cseq, x.iss, nil, []byte("damaged"))
	f.Net[44] ^= 1
	if v := d.wan.Inbound(f); v != frame.Drop {
		t.Errorf("a damaged segment: verdict %d, want drop", v)
	}
	if d.owner.ended != 0 {
		t.Errorf("a connection has ended")
	}
	if v, _ := x.fromClient(t, flagACK, []byte("goes on")); v != frame.Forward {
		t.Errorf("the next segment: verdict %d", v)
	}
	f = d.write(x.client, ductAt, flagRST, x.cseq, 0, nil, nil)
	d.wan.Inbound(f)
	if d.owner.ended != 1 {
		t.Errorf("an exact RST ends nothing")
	}
}

// TestAMillionIdleCarriedConnections bounds their memory: 512 MB.
func TestAMillionIdleCarriedConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n, backends = 1_000_000, 40
	d := newDuct(t)
	// More than the ports of one backend: the owner has many.
	many := &manyDucts{backends: backends}
	d.table.Own("web", many, flow.CarrierSettings{Policy: "default", ConnectTimeout: 5 * time.Second})
	for i := range backends {
		own := netip.AddrPortFrom(ductOwn, 17000)
		d.lan.Outbound(d.write(own, many.at(i), flagSYN, 100, 0, nil, nil))
		d.lan.Inbound(d.write(many.at(i), own, flagSYN|flagACK, 200, 101, nil, nil))
	}
	before := heap()
	for i := range uint32(n) {
		c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, byte(16 + i/50000>>8), byte(i / 50000), 9}), uint16(10000+i%50000))
		f := d.write(c, ductAt, flagSYN, 1000, 0, nil, nil)
		if v := d.wan.Inbound(f); v != frame.Forward {
			t.Fatalf("SYN %d: verdict %d", i, v)
		}
		syn := f.Head[14:]
		own, seq := addrPort(syn[12:16], syn[20:]), binary.BigEndian.Uint32(syn[24:])
		to := addrPort(syn[16:20], syn[22:])
		f = d.write(to, own, flagSYN|flagACK, 7000, seq+1, nil, nil)
		if v := d.lan.Inbound(f); v != frame.Forward {
			t.Fatalf("SYN-ACK %d: verdict %d", i, v)
		}
		iss := binary.BigEndian.Uint32(f.Head[14+24:])
		if v := d.wan.Inbound(d.write(c, ductAt, flagACK, 1001, iss+1, nil, nil)); v != frame.Forward {
			t.Fatalf("ACK %d: verdict %d", i, v)
		}
	}
	used := heap() - before
	t.Logf("%d connections in %d MiB, %d bytes each", n, used>>20, used/n)
	if used > 512<<20 {
		t.Errorf("a million carried connections take %d MiB, want at most 512", used>>20)
	}
	if got := d.table.Len(); got < 2*n {
		t.Errorf("there are %d flows, want %d", got, 2*n)
	}
}

// manyDucts takes its backends in turn.
type manyDucts struct{ backends, turn int }

func (m *manyDucts) at(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 8080)
}
func (m *manyDucts) Choose(_, _ netip.AddrPort) (netip.AddrPort, bool) {
	m.turn++
	return m.at(m.turn % m.backends), true
}
func (*manyDucts) Tried(netip.AddrPort, error) {}

func (*manyDucts) Spared(netip.AddrPort)  {}
func (*manyDucts) Ended(*tcpinfo.Carried) {}

// BenchmarkCarriedSegment is what a data segment costs the table, of one
// connection among a hundred thousand.
func BenchmarkCarriedSegment(b *testing.B) {
	d := newDuct(b)
	var all []*through
	for n := range uint32(20_000) {
		all = append(all, d.open(b, n))
	}
	data := make([]byte, 60)
	rng := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		x := all[rng.IntN(len(all))]
		if v, _ := x.fromClient(b, flagACK, data); v != frame.Forward {
			b.Fatalf("verdict %d", v)
		}
		x.bss += uint32(len(data))
		if v, _ := x.fromBackend(b, flagACK, nil); v != frame.Forward {
			b.Fatalf("verdict %d", v)
		}
	}
}

func TestTheBoundOfCarriedConnections(t *testing.T) {
	d := newDuct(t)
	d.table.BoundCarried(2, "refuse")
	x := d.open(t, 1)
	d.clock.Advance(time.Second)
	d.open(t, 2)
	third := netip.MustParseAddrPort("172.16.9.9:3333")
	if v := d.wan.Inbound(d.write(third, ductAt, flagSYN, 1000, 0, nil, nil)); v != frame.Reply {
		t.Errorf("refuse: verdict %d, want a reply", v)
	}
	d.table.BoundCarried(2, "relay")
	if v := d.wan.Inbound(d.write(third, ductAt, flagSYN, 1000, 0, nil, nil)); v != frame.Pass {
		t.Errorf("relay: verdict %d, want the stack to have it", v)
	}
	d.table.BoundCarried(2, "oldest")
	d.open(t, 3)
	if d.owner.ended != 1 || d.table.Carried() != 2 {
		t.Errorf("oldest: %d have ended and %d are left, want 1 and 2", d.owner.ended, d.table.Carried())
	}
	if v, _ := x.fromClient(t, flagACK, []byte("am I there?")); v == frame.Forward {
		t.Error("oldest: it is not the oldest that has ended")
	}
	if n := d.table.Count.CarriedFull.Load(); n != 3 {
		t.Errorf("%d clients found no room, want 3", n)
	}
}

// What the table says by itself on a leg with timestamps is never ahead of what the
// other peer says next, however slowly that one's clock ticks: it would be dropped
// (RFC 7323, 5.3 R1).
func TestOwnWordsAreNotAheadOfThePeersClock(t *testing.T) {
	d := newDuct(t)
	var said []uint32 // timestamps of the table's own segments to the client
	d.wan.Start(func(_ frame.Header, _, p []byte) {
		if l, ok := frame.Parse(p); ok && l.End-l.Transport == 32 {
			said = append(said, binary.BigEndian.Uint32(p[l.Transport+24:]))
		}
	})
	d.table.Start(nil, nil)
	defer d.table.Close()
	stamp := func(val, ecr uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, val), ecr)
	}
	client := netip.MustParseAddrPort("172.16.9.9:3333")
	f := d.write(client, ductAt, flagSYN, 1000, 0, stamp(50, 0), nil)
	if v := d.wan.Inbound(f); v != frame.Forward {
		t.Fatalf("SYN: verdict %d", v)
	}
	syn := read(t, f)
	f = d.write(ductBackend, syn.src, flagSYN|flagACK, 7000, syn.seq+1, stamp(900, binary.BigEndian.Uint32(syn.options[4:])), nil)
	if v := d.lan.Inbound(f); v != frame.Forward {
		t.Fatalf("SYN-ACK: verdict %d", v)
	}
	answer := read(t, f)
	ours := binary.BigEndian.Uint32(answer.options[4:])
	f = d.write(client, ductAt, flagACK, 1001, answer.seq+1, stamp(51, ours), nil)
	if v := d.wan.Inbound(f); v != frame.Forward {
		t.Fatalf("ACK: verdict %d", v)
	}
	fromBackend := func(seq, val uint32) (next uint32) {
		f := d.write(ductBackend, syn.src, flagACK, seq, syn.seq+1, stamp(val, 0), []byte("data"))
		if v := d.lan.Inbound(f); v != frame.Forward {
			t.Fatalf("data: verdict %d", v)
		}
		return binary.BigEndian.Uint32(read(t, f).options[4:])
	}
	late := fromBackend(7005, 950)
	fromBackend(7001, 900) // was overtaken
	f = d.write(client, ductAt, flagACK, 1001, answer.seq+9, stamp(52, late), nil)
	if v := d.wan.Inbound(f); v != frame.Forward {
		t.Fatalf("the second ACK: verdict %d", v)
	}
	d.clock.Advance(61 * time.Second) // keepalive asks both
	if len(said) == 0 {
		t.Fatal("the client was not probed")
	}
	probe := said[len(said)-1]
	if int32(probe-late) < 0 {
		t.Errorf("the table has said %d behind a segment with %d: the client drops it", probe, late)
	}
	if next := fromBackend(7009, 951); int32(probe-next) > 0 {
		t.Errorf("the table has said %d, and what the backend says then has %d: the client drops it", probe, next)
	}
}
