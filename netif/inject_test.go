package netif

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/lastack/lastack/netif/frame"
)

var (
	ourMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	peerMAC = [6]byte{2, 0, 0, 0, 0, 2}
	our4    = [4]byte{10, 0, 0, 1}
	peer4   = [4]byte{10, 0, 0, 2}
	our6    = [16]byte{0xfd, 15: 1}
	peer6   = [16]byte{0xfd, 15: 2}
)

// offline is an Endpoint without sockets: frames are put into its queue by
// hand, what it sends goes nowhere.
func offline(t testing.TB) *rxQueue {
	t.Helper()
	e := &Endpoint{name: "test0"}
	e.txq = newTxQueue(e)
	e.mtu.Store(1500)
	e.mac.Store(&ourMAC)
	e.ports.Store(&map[uint16]*Port{0: {e: e}})
	q := newRxQueue(e, nil)
	t.Cleanup(func() {
		for i := range q.slots {
			q.slots[i].view.Release()
		}
	})
	return q
}

// put receives one frame in slot i, as recvmmsg would have left it.
func (q *rxQueue) put(i int, meta frame.Header, eth, network []byte, aux []byte) {
	s := &q.slots[i]
	*(*frame.Header)(unsafe.Pointer(&s.link)) = meta
	n := copy(s.link[frame.HeaderSize:], eth)
	if len(network) > 0 {
		n += copy(s.view.AsSlice(), network)
	}
	q.msgs[i].len = uint32(frame.HeaderSize + n)
	q.msgs[i].hdr.Flags = 0
	q.msgs[i].hdr.SetControllen(copy(s.aux[:], aux))
}

// listenAll is a gVisor stack with a TCP listener and both addresses on the
// queue's untagged port.
func listenAll(t testing.TB, e *Endpoint) *gstack.Stack {
	t.Helper()
	s := gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	t.Cleanup(func() { s.Destroy() })
	if err := s.CreateNIC(1, (*e.ports.Load())[0]); err != nil {
		t.Fatalf("create NIC: %v", err)
	}
	for proto, addr := range map[tcpip.NetworkProtocolNumber]tcpip.AddressWithPrefix{
		ipv4.ProtocolNumber: {Address: tcpip.AddrFrom4(our4), PrefixLen: 24},
		ipv6.ProtocolNumber: {Address: tcpip.AddrFrom16(our6), PrefixLen: 64},
	} {
		if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: addr}, gstack.AddressProperties{}); err != nil {
			t.Fatalf("add address: %v", err)
		}
		s.AddRoute(tcpip.Route{Destination: addr.Subnet(), NIC: 1})
		ep, err := s.NewEndpoint(tcp.ProtocolNumber, proto, &waiter.Queue{})
		if err != nil {
			t.Fatalf("new endpoint: %v", err)
		}
		t.Cleanup(ep.Close)
		if err := ep.Bind(tcpip.FullAddress{Addr: addr.Address, Port: 80}); err != nil {
			t.Fatalf("bind: %v", err)
		}
		if err := ep.Listen(16); err != nil {
			t.Fatalf("listen: %v", err)
		}
	}
	return s
}

// Frames of each kind the driver tells apart, to be damaged by the tests.
func ethernet(kind uint16) []byte {
	eth := append(append([]byte(nil), ourMAC[:]...), peerMAC[:]...)
	return binary.BigEndian.AppendUint16(eth, kind)
}

func tcp4(flags byte, seq uint32, payload []byte) []byte {
	p := make([]byte, 40, 40+len(payload))
	p[0], p[8], p[9] = 0x45, 64, frame.ProtoTCP
	copy(p[12:], peer4[:])
	copy(p[16:], our4[:])
	return finish(append(tcpHeader(p, 20, flags, seq), payload...), 4)
}

func tcp6(flags byte, seq uint32, payload []byte) []byte {
	p := make([]byte, 60, 60+len(payload))
	p[0], p[6], p[7] = 0x60, frame.ProtoTCP, 64
	copy(p[8:], peer6[:])
	copy(p[24:], our6[:])
	return finish(append(tcpHeader(p, 40, flags, seq), payload...), 6)
}

func tcpHeader(p []byte, at int, flags byte, seq uint32) []byte {
	h := p[at:]
	binary.BigEndian.PutUint16(h, 40000)
	binary.BigEndian.PutUint16(h[2:], 80)
	binary.BigEndian.PutUint32(h[4:], seq)
	h[12], h[13] = 5<<4, flags
	binary.BigEndian.PutUint16(h[14:], 65535)
	return p
}

// finish writes length and checksums.
func finish(p []byte, version int) []byte {
	if version == 4 {
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	} else {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	}
	l, ok := frame.Parse(p)
	if !ok || l.Fragment || l.Protocol != frame.ProtoTCP {
		return p
	}
	binary.BigEndian.PutUint16(p[l.Transport+16:], 0)
	binary.BigEndian.PutUint16(p[l.Transport+16:], l.TransportSum(p))
	return p
}

func arpRequest() []byte {
	p := make([]byte, 28)
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(p[8:], peerMAC[:])
	copy(p[14:], peer4[:])
	copy(p[24:], our4[:])
	return p
}

// auxTag is the control message that tells a VLAN tag.
func auxTag(tci uint16) []byte {
	b := make([]byte, 16+auxData)
	binary.NativeEndian.PutUint64(b, uint64(len(b)))
	binary.NativeEndian.PutUint32(b[8:], 263)   // SOL_PACKET
	binary.NativeEndian.PutUint32(b[12:], 8)    // PACKET_AUXDATA
	binary.NativeEndian.PutUint32(b[16:], 0x10) // TP_STATUS_VLAN_VALID
	binary.NativeEndian.PutUint16(b[32:], tci)
	return b
}

const syn = 0x02

func TestEachUnfitFrameHasItsCounter(t *testing.T) {
	good := tcp4(syn, 1, nil)
	corrupt := tcp4(syn, 1, []byte("data"))
	corrupt[len(corrupt)-1] ^= 1
	badHeader := append([]byte(nil), good...)
	badHeader[10] ^= 1
	other := ethernet(frame.TypeIPv4)
	other[5] = 9
	own := ethernet(frame.TypeIPv4)
	copy(own[6:], ourMAC[:])
	for name, c := range map[string]struct {
		meta frame.Header
		eth  []byte
		net  []byte
		aux  []byte
		want func(Counters) uint64
	}{
		"runt":              {eth: good[:10], want: func(c Counters) uint64 { return c.RxRunt }},
		"other host":        {eth: other, net: good, want: func(c Counters) uint64 { return c.RxOtherHost }},
		"own source":        {eth: own, net: good, want: func(c Counters) uint64 { return c.RxOwnSource }},
		"foreign VLAN":      {eth: ethernet(frame.TypeIPv4), net: good, aux: auxTag(10), want: func(c Counters) uint64 { return c.RxVLAN }},
		"unknown type":      {eth: ethernet(0x88cc), net: good, want: func(c Counters) uint64 { return c.RxUnknownType }},
		"wrong header sum":  {eth: ethernet(frame.TypeIPv4), net: badHeader, want: func(c Counters) uint64 { return c.RxMalformed }},
		"v6 said to be v4":  {eth: ethernet(frame.TypeIPv4), net: tcp6(syn, 1, nil), want: func(c Counters) uint64 { return c.RxMalformed }},
		"corrupt":           {eth: ethernet(frame.TypeIPv4), net: corrupt, want: func(c Counters) uint64 { return c.RxBadChecksum }},
		"UDP super-frame":   {meta: frame.Header{GSOType: frame.GSOUDPL4}, eth: ethernet(frame.TypeIPv4), net: good, want: func(c Counters) uint64 { return c.RxUnsupported }},
		"partial elsewhere": {meta: frame.Header{Flags: frame.NeedsCsum, CsumStart: 9999}, eth: ethernet(frame.TypeIPv4), net: good, want: func(c Counters) uint64 { return c.RxBadChecksum }},
	} {
		t.Run(name, func(t *testing.T) {
			q := offline(t)
			s := listenAll(t, q.e)
			q.put(0, c.meta, c.eth, c.net, c.aux)
			q.handle(1)
			if got := c.want(q.e.count.snapshot()); got != 1 {
				t.Errorf("counter = %d, want 1; all: %+v", got, q.e.count.snapshot())
			}
			if got := s.Stats().IP.PacketsReceived.Value(); got != 0 {
				t.Errorf("the stack was given %d packets, want none", got)
			}
		})
	}
}

// A filter keeps count of what the stack is given, and goes by the IP packet: what
// the link's header keeps from the stack it does not see.
func TestAFilterSeesNothingThatTheLinksHeaderKeepsFromTheStack(t *testing.T) {
	for name, c := range map[string]struct {
		kind uint16
		aux  []byte
	}{
		"no protocol of ours": {kind: frame.TypeIPv4 | 1}, "the other family": {kind: frame.TypeIPv6}, "a VLAN without a port": {kind: frame.TypeIPv4, aux: auxTag(10)},
	} {
		t.Run(name, func(t *testing.T) {
			q := offline(t)
			seen := &seeing{}
			q.e.filter = seen
			whole := tcp4(syn, 1, make([]byte, 3000))
			all := append(cut(whole, 1480, 9), whole)
			for i, p := range all {
				q.put(i, frame.Header{}, ethernet(c.kind), p, c.aux)
			}
			q.handle(len(all))
			if len(*seen) > 0 {
				t.Errorf("the filter saw packets of %v bytes, want none", *seen)
			}
			n := q.e.count.snapshot()
			if got := n.RxUnknownType + n.RxMalformed + n.RxVLAN; got != uint64(len(all)) {
				t.Errorf("%d of %d frames are counted: %+v", got, len(all), n)
			}
		})
	}
}

func TestGoodFramesReachTheStack(t *testing.T) {
	partial := tcp4(syn, 1, nil)
	partial[36] ^= 0xff // as good as any value: the checksum is still to be made
	damaged := tcp4(syn, 1, nil)
	damaged[36] ^= 0xff
	for name, c := range map[string]struct {
		meta frame.Header
		kind uint16
		net  []byte
		aux  []byte
	}{
		"IPv4":             {kind: frame.TypeIPv4, net: tcp4(syn, 1, nil)},
		"IPv6":             {kind: frame.TypeIPv6, net: tcp6(syn, 1, nil)},
		"partial checksum": {meta: frame.Header{Flags: frame.NeedsCsum, CsumStart: 34, CsumOffset: 16}, kind: frame.TypeIPv4, net: partial},
		"card verified":    {meta: frame.Header{Flags: frame.DataValid}, kind: frame.TypeIPv4, net: damaged},
		"priority tag":     {kind: frame.TypeIPv4, net: tcp4(syn, 1, nil), aux: auxTag(5 << 13)},
		"large":            {kind: frame.TypeIPv4, net: tcp4(syn, 1, make([]byte, 60000))},
	} {
		t.Run(name, func(t *testing.T) {
			q := offline(t)
			s := listenAll(t, q.e)
			q.put(0, c.meta, ethernet(c.kind), c.net, c.aux)
			q.handle(1)
			if got := s.Stats().TCP.ValidSegmentsReceived.Value(); got != 1 {
				t.Errorf("TCP took %d segments, want 1; card: %+v", got, q.e.count.snapshot())
			}
			if got := s.Stats().TCP.ChecksumErrors.Value(); got != 0 {
				t.Errorf("TCP saw %d wrong checksums, want none", got)
			}
		})
	}
}

func TestTaggedFrameGoesToItsVLANsPort(t *testing.T) {
	q := offline(t)
	plain := listenAll(t, q.e)
	tagged := gstack.New(gstack.Options{NetworkProtocols: []gstack.NetworkProtocolFactory{ipv4.NewProtocol}})
	t.Cleanup(func() { tagged.Destroy() })
	if err := tagged.CreateNIC(1, q.e.Port(10)); err != nil {
		t.Fatalf("create NIC: %v", err)
	}
	q.put(0, frame.Header{}, ethernet(frame.TypeIPv4), tcp4(syn, 1, nil), auxTag(10))
	q.handle(1)
	if got := tagged.Stats().IP.PacketsReceived.Value(); got != 1 {
		t.Errorf("VLAN 10's stack got %d packets, want 1", got)
	}
	if got := plain.Stats().IP.PacketsReceived.Value(); got != 0 {
		t.Errorf("the untagged stack got %d packets, want none", got)
	}
}

// A TCP segment in pieces is one for the filter and the stack, and its checksum
// is verified as that of any other.
func TestASegmentInPiecesIsPutTogetherAndVerified(t *testing.T) {
	for family, whole := range someSegments(20_000) { // more than is copied from its buffer
		for name, damage := range map[string]byte{"intact": 0, "corrupt": 1} {
			t.Run(family+" "+name, func(t *testing.T) {
				q := offline(t)
				s := listenAll(t, q.e)
				seen := &seeing{}
				q.e.filter = seen
				p := append([]byte(nil), whole...)
				p[len(p)-1] ^= damage
				kind := uint16(frame.TypeIPv4)
				if p[0]>>4 == 6 {
					kind = frame.TypeIPv6
				}
				all := cut(p, 1480, 9)
				for i, part := range all {
					q.put(i, frame.Header{}, ethernet(kind), part, nil)
				}
				q.handle(len(all))
				if len(*seen) != 1 || (*seen)[0] != len(p) {
					t.Errorf("the filter saw packets of %v bytes, want one of %d", *seen, len(p))
				}
				c := q.e.count.snapshot()
				if c.RxPieces != uint64(len(all)-1) || c.RxBadChecksum != uint64(damage) || c.RxBadPieces != 0 {
					t.Errorf("counted are %+v", c)
				}
				if got, want := s.Stats().TCP.ValidSegmentsReceived.Value(), uint64(1-damage); got != want {
					t.Errorf("TCP took %d segments, want %d", got, want)
				}
			})
		}
	}
}

// seeing is a filter that notes the sizes of what comes in.
type seeing []int

func (s *seeing) Inbound(f *frame.Frame) frame.Verdict {
	*s = append(*s, len(f.Net))
	return frame.Pass
}

func (s *seeing) Outbound(*frame.Frame) frame.Verdict { return frame.Pass }

// What is not TCP is put together and verified by the stack.
func TestADatagramInPiecesIsVerifiedByTheStack(t *testing.T) {
	for name, damage := range map[string]byte{"intact": 0, "corrupt": 1} {
		t.Run(name, func(t *testing.T) {
			q := offline(t)
			s := listenAll(t, q.e)
			whole := datagram4(make([]byte, 64))
			whole[len(whole)-1] ^= damage
			for i, part := range cut(whole, 48, 7) {
				q.put(i, frame.Header{}, ethernet(frame.TypeIPv4), part, nil)
			}
			q.handle(2)
			if got, want := s.Stats().UDP.ChecksumErrors.Value(), uint64(damage); got != want {
				t.Errorf("UDP saw %d wrong checksums, want %d", got, want)
			}
			if got := s.Stats().IP.PacketsReceived.Value(); got != 2 {
				t.Errorf("the stack got %d fragments, want 2", got)
			}
		})
	}
}

// TestRandomFramesCrashNothing feeds ten million random and mutated frames to
// the driver and the stack behind it.
func TestRandomFramesCrashNothing(t *testing.T) {
	total := 10_000_000
	if testing.Short() {
		total = 20_000
	}
	q := offline(t)
	listenAll(t, q.e)
	rng := rand.New(rand.NewPCG(uint64(total), 9))
	for done := 0; done < total; done += rxBatch {
		for i := range rxBatch {
			meta, eth, network, aux := randomFrame(rng)
			q.put(i, meta, eth, network, aux)
		}
		q.handle(rxBatch)
	}
	c := q.e.count.snapshot()
	t.Logf("%d frames: %+v", c.RxFrames, c)
	if c.RxFrames < uint64(total) {
		t.Errorf("handled %d frames, want %d", c.RxFrames, total)
	}
	if c.RxMalformed == 0 || c.RxBadChecksum == 0 || c.RxVLAN == 0 || c.RxUnknownType == 0 {
		t.Errorf("the frames were not varied enough: %+v", c)
	}
}

// randomFrame is a valid frame with random damage, with its checksums made
// right again in most cases so that the damage goes deep.
func randomFrame(rng *rand.Rand) (frame.Header, []byte, []byte, []byte) {
	kind, version := uint16(frame.TypeIPv4), 4
	var p []byte
	payload := make([]byte, rng.IntN(100))
	switch rng.IntN(6) {
	case 0:
		p = tcp4(byte(rng.Uint32()), rng.Uint32(), payload)
	case 1:
		kind, version, p = frame.TypeIPv6, 6, tcp6(byte(rng.Uint32()), rng.Uint32(), payload)
	case 2:
		kind, version, p = frame.TypeARP, 0, arpRequest()
	case 3: // other protocols: ICMP, UDP, IGMP, extension headers
		p = tcp4(0, rng.Uint32(), payload)
		p[9] = []byte{1, 2, 17, 41, 58}[rng.IntN(5)]
	case 4:
		kind, version, p = frame.TypeIPv6, 6, tcp6(0, rng.Uint32(), payload)
		p[6] = []byte{0, 17, 43, 44, 58, 60}[rng.IntN(6)]
	default:
		version, p = 0, payload
		kind = uint16(rng.Uint32())
	}
	for range rng.IntN(4) {
		if len(p) > 0 {
			p[rng.IntN(len(p))] = byte(rng.Uint32())
		}
	}
	if rng.IntN(8) == 0 && len(p) > 0 {
		p, version = p[:rng.IntN(len(p))], 0
	}
	if version != 0 && rng.IntN(5) != 0 && len(p) >= 40 {
		p = finish(p, version)
	}
	var meta frame.Header
	if rng.IntN(4) == 0 {
		meta = frame.Header{Flags: byte(rng.IntN(4)), CsumStart: uint16(rng.IntN(80)), CsumOffset: uint16(rng.IntN(20)),
			GSOType: []byte{0, 0, 1, 4, 5, 0x81, byte(rng.Uint32())}[rng.IntN(7)], GSOSize: uint16(rng.Uint32())}
	}
	var aux []byte
	switch rng.IntN(12) {
	case 0:
		aux = auxTag(uint16(rng.Uint32()))
	case 1:
		aux = make([]byte, rng.IntN(auxRoom))
	}
	return meta, ethernet(kind), p, aux
}

func BenchmarkHandleToStack(b *testing.B) {
	q := offline(b)
	listenAll(b, q.e)
	ack := tcp4(0x10, 1, nil)
	for i := range rxBatch {
		q.put(i, frame.Header{Flags: frame.DataValid}, ethernet(frame.TypeIPv4), ack, nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		q.handle(rxBatch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rxBatch), "ns/frame")
}

// datagram4 is a UDP datagram of the peer's.
func datagram4(payload []byte) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, frame.ProtoUDP
	copy(p[12:], peer4[:])
	copy(p[16:], our4[:])
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], 80)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	p = finish(append(p, payload...), 4)
	if l, ok := frame.Parse(p); ok {
		binary.BigEndian.PutUint16(p[26:], l.TransportSum(p))
	}
	return p
}
