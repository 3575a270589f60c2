package netif

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif/frame"
)

// rawRig is a rig without a kernel at the far end: frames are made by hand.
// The kernels of both ends have no IPv6, and so say nothing.
func rawRig(t testing.TB, o EndpointOptions) (*rig, *lab.Raw) {
	t.Helper()
	r := &rig{t: t, peer: labtest.Host(t, "peer"), card: labtest.Host(t, "card")}
	for _, h := range []*lab.Host{r.peer, r.card} {
		labtest.Sysctl(t, h, "net.ipv6.conf.all.disable_ipv6", "1")
		labtest.Sysctl(t, h, "net.ipv6.conf.default.disable_ipv6", "1")
	}
	wire(t, r.peer, r.card)
	if err := r.card.SetMAC("eth0", ourMAC[:]); err != nil {
		t.Fatal(err)
	}
	raw := labtest.Raw(t, r.peer, "eth0")
	r.e = openOn(t, r.card, o)
	return r, raw
}

// ping is an ARP question for the stack's address: what is before it has been
// handled when its answer is there.
func ping() []byte { return append(ethernet(frame.TypeARP), arpRequest()...) }

// answered waits for the answer to ping and returns it. There must be no other frame.
func answered(t testing.TB, raw *lab.Raw) []byte {
	t.Helper()
	f, err := raw.Recv(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(f.Data, slices.Concat([]byte{0, 2}, ourMAC[:], our4[:], peerMAC[:], peer4[:])) {
		t.Errorf("got frame %x, want the ARP answer", f.Data)
	}
	return f.Data
}

func TestEachUnfitFrameOfARealCardHasItsCounter(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{Queues: 1})
	r.port = r.e.Port(0)
	newStack(t, r.port, our4, our6)
	r.e.Port(20)                                                     // not for service VLAN 20
	whole := append(ethernet(frame.TypeIPv4), tcp4(0x04, 1, nil)...) // a reset has no answer
	changed := func(change func(f []byte)) []byte {
		f := bytes.Clone(whole)
		change(f)
		return f
	}
	for name, c := range map[string]struct {
		frame []byte
		want  func(Counters) uint64
	}{
		"runt":          {whole[:14], func(c Counters) uint64 { return c.RxRunt }},
		"other host":    {changed(func(f []byte) { f[5] = 9 }), func(c Counters) uint64 { return c.RxOtherHost }},
		"own source":    {changed(func(f []byte) { copy(f[6:], ourMAC[:]) }), func(c Counters) uint64 { return c.RxOwnSource }},
		"VLAN 10":       {tagged(10, whole), func(c Counters) uint64 { return c.RxVLAN }},
		"service VLAN":  {serviceTagged(20, whole), func(c Counters) uint64 { return c.RxVLAN }},
		"service tag 0": {serviceTagged(0, whole), func(c Counters) uint64 { return c.RxVLAN }},
		"two tags":      {serviceTagged(10, tagged(10, whole)), func(c Counters) uint64 { return c.RxVLAN }},
		"unknown type":  {changed(func(f []byte) { f[12] = 0x88 }), func(c Counters) uint64 { return c.RxUnknownType }},
		"header sum":    {changed(func(f []byte) { f[24] ^= 1 }), func(c Counters) uint64 { return c.RxMalformed }},
		"cut":           {whole[:40], func(c Counters) uint64 { return c.RxMalformed }},
		"TCP sum":       {changed(func(f []byte) { f[50] ^= 1 }), func(c Counters) uint64 { return c.RxBadChecksum }},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.e.Counters()
			r.mustSend(raw, c.frame)
			r.mustSend(raw, ping())
			answered(t, raw)
			after := r.e.Counters()
			if got := c.want(after) - c.want(before); got != 1 {
				t.Errorf("counted %d, want 1; all: %+v", got, after)
			}
			if got := after.RxFrames - before.RxFrames; got != 2 {
				t.Errorf("%d frames were received, want this one and the question", got)
			}
		})
	}
	// A frame may arrive before its sender has counted it.
	until(t, "only the answers are sent", func() bool { return r.e.Counters().TxFrames == 11 })
}

// serviceTagged is a frame with the tag of a provider's VLAN (802.1ad).
func serviceTagged(vlan uint16, f []byte) []byte {
	f = tagged(vlan, f)
	binary.BigEndian.PutUint16(f[12:], 0x88a8)
	return f
}

func TestSentBytesAreCountedAsTheyAre(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{Queues: 1})
	f := append(ethernet(frame.TypeIPv4), tcp4(syn, 1, make([]byte, 100))...)
	r.e.Send(frame.Header{}, f[:14], f[14:])
	got, err := raw.Recv(limit(t))
	if err != nil || !bytes.Equal(got.Data, f) {
		t.Errorf("got frame %x (%v), want %x", got.Data, err, f)
	}
	big := tcp4(0x10, 1, make([]byte, 3000))
	meta := frame.Header{Flags: frame.NeedsCsum, GSOType: frame.GSOTCPv4, HdrLen: 54, GSOSize: 1000, CsumStart: 34, CsumOffset: 16}
	r.e.Send(meta, ethernet(frame.TypeIPv4), big)
	r.e.Send(frame.Header{}, ethernet(frame.TypeIPv4), big) // larger than the MTU
	c := r.e.Counters()
	if want := uint64(len(f) + 14 + len(big)); c.TxFrames != 2 || c.TxBytes != want || c.TxSuperFrames != 1 || c.TxDropTooBig != 1 {
		t.Errorf("counted %+v, want 2 frames of %d bytes, one a super-frame, and one too big", c, want)
	}
}

// A card whose VLAN 10 has a stack, and whose untagged frames have another.
func TestTaggedAndUntaggedFramesNeverMeet(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{Queues: 1})
	plain := newStack(t, r.e.Port(0), our4, our6)
	in10 := newStack(t, r.e.Port(testVLAN), our4, our6)
	for name, c := range map[string]struct {
		frame []byte
		vlan  uint16 // of the answer
	}{
		"untagged":            {ping(), 0},
		"priority alone":      {tagged(7<<13, ping()), 0},
		"VLAN 10":             {tagged(testVLAN, ping()), testVLAN},
		"VLAN 10 of priority": {tagged(5<<13|testVLAN, ping()), testVLAN},
	} {
		t.Run(name, func(t *testing.T) {
			before := [2]uint64{plain.Stats().ARP.RequestsReceived.Value(), in10.Stats().ARP.RequestsReceived.Value()}
			r.mustSend(raw, c.frame)
			f := answered(t, raw)
			if vid, _, ok := untag(f); vid != c.vlan || ok != (c.vlan != 0) {
				t.Errorf("the answer is %x, want it in VLAN %d", f[:18], c.vlan)
			}
			want := [2]uint64{before[0] + 1, before[1]}
			if c.vlan != 0 {
				want = [2]uint64{before[0], before[1] + 1}
			}
			if got := [2]uint64{plain.Stats().ARP.RequestsReceived.Value(), in10.Stats().ARP.RequestsReceived.Value()}; got != want {
				t.Errorf("the stacks have seen %d questions, want %d", got, want)
			}
		})
	}
}

// Two stacks talk over VLAN 10: super-frames and partial checksums keep their tag.
func TestTaggedSuperFrames(t *testing.T) {
	r := &rig{t: t, peer: labtest.Host(t, "peer"), card: labtest.Host(t, "card")}
	wire(t, r.peer, r.card)
	r.e = openOn(t, r.card, EndpointOptions{Queues: 1})
	far := openOn(t, r.peer, EndpointOptions{Queues: 1})
	serve(t, newStack(t, r.e.Port(testVLAN), our4, our6))
	client := newStack(t, far.Port(testVLAN), peer4, peer6)
	for _, f := range families {
		c := dialStack(t, client, net.JoinHostPort(f.ours, bulkPort))
		if err := lab.Exchange(limit(t), c, toCard(), toPeer()); err != nil {
			t.Error(err)
		}
		_ = c.Close() // both halves are closed
	}
	if n := r.e.Counters(); n.RxSuperFrames == 0 || n.TxSuperFrames == 0 || n.RxBadChecksum > 0 {
		t.Errorf("counted %+v, want super-frames both ways and no wrong checksum", n)
	}
}

func TestFilterTurnsFramesRoundWithTheirTag(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{Queues: 1, Filter: mirror{}})
	r.e.Port(testVLAN)
	for _, f := range [][]byte{ping(), tagged(testVLAN, ping())} {
		r.mustSend(raw, f)
		got, err := raw.Recv(limit(t))
		if err != nil {
			t.Fatal(err)
		}
		if want := slices.Concat(peerMAC[:], ourMAC[:], f[12:]); !bytes.Equal(got.Data, want) {
			t.Errorf("got  %x\nwant %x", got.Data, want)
		}
	}
	until(t, "two frames are counted as carried and sent", func() bool {
		n := r.e.Counters()
		return n.RxCarried == 2 && n.TxFrames == 2
	})
}

// mirror sends every frame back.
type mirror struct{}

func (mirror) Outbound(*frame.Frame) frame.Verdict { return frame.Pass }

func (mirror) Inbound(f *frame.Frame) frame.Verdict {
	copy(f.Eth[:6], f.Eth[6:12])
	copy(f.Eth[6:12], ourMAC[:])
	return frame.Reply
}

// A tap may hand up frames that a packet socket cannot describe: they are
// counted, and do not hold up those behind them.
func TestUndescribableSuperFrameHoldsUpNothing(t *testing.T) {
	for name, order := range map[string]string{"several in a row": "quuq", "between others": "qquququq"} {
		t.Run(name, func(t *testing.T) {
			r := &rig{t: t, card: labtest.Host(t, "card")}
			file := tapVnet(t, r.card)
			if err := r.card.SetMAC("eth0", ourMAC[:]); err != nil {
				t.Fatal(err)
			}
			gate := make(gate)
			r.e = openOn(t, r.card, EndpointOptions{Queues: 1, Filter: gate})
			newStack(t, r.e.Port(0), our4, our6)
			const ufo = 3 // VIRTIO_NET_HDR_GSO_UDP
			frames := map[rune][]byte{
				'q': append(make([]byte, frame.HeaderSize), ping()...),
				'u': slices.Concat([]byte{frame.NeedsCsum, ufo, 42, 0, 0xe8, 3, 34, 0, 6, 0}, ethernet(frame.TypeIPv4), udp4(3000)),
			}
			write := func(kind rune) {
				if _, err := file.Write(frames[kind]); err != nil {
					t.Fatal(err)
				}
			}
			write('u')
			until(t, "the first is counted", func() bool { return r.e.Counters().RxErrors == 1 })
			for _, kind := range order { // the filter has the first, the others wait in the socket
				write(kind)
			}
			close(gate)
			questions, errs := uint64(strings.Count(order, "q")), uint64(1+strings.Count(order, "u"))
			until(t, "every question is answered", func() bool { return r.e.Counters().TxFrames >= questions })
			if got := r.e.Counters().RxErrors; got != errs {
				t.Errorf("counted %d failed reads, want %d", got, errs)
			}
		})
	}
}

// gate is a filter that lets frames through when something is received from it.
type gate chan struct{}

func (gate) Outbound(*frame.Frame) frame.Verdict { return frame.Pass }

func (g gate) Inbound(*frame.Frame) frame.Verdict {
	<-g
	return frame.Pass
}

// udp4 is a datagram with a partial checksum.
func udp4(size int) []byte {
	p := make([]byte, 28+size)
	p[0], p[8], p[9] = 0x45, 64, frame.ProtoUDP
	copy(p[12:], peer4[:])
	copy(p[16:], our4[:])
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], 9)
	binary.BigEndian.PutUint16(p[24:], uint16(8+size))
	return finish(p, 4)
}

func TestFramesThatFindTheSocketFullAreCounted(t *testing.T) {
	gate := make(gate)
	r, raw := rawRig(t, EndpointOptions{Queues: 1, Filter: gate})
	f := append(ethernet(frame.TypeIPv4), tcp4(syn, 1, make([]byte, 1400))...)
	sent := uint64(1)
	r.mustSend(raw, f)
	for sent%100 != 0 || r.e.Counters().RxKernelDrops == 0 {
		if sent++; sent > 100_000 {
			t.Fatal("no frame was dropped")
		}
		r.mustSend(raw, f)
	}
	close(gate)
	until(t, "every frame is accounted for", func() bool {
		c := r.e.Counters()
		return c.RxFrames+c.RxKernelDrops == sent
	})
	if c := r.e.Counters(); c.RxFrames == 0 || c.RxDetached != c.RxFrames {
		t.Errorf("counted %+v, want every frame that was received to be counted as detached", c)
	}
}
