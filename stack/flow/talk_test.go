package flow_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// talk is a table between a client and a backend whose every segment the test
// writes, on a clock that the test moves. What the table says is kept for whom
// it is said to.
type talk struct {
	*testing.T
	clock           *faketime.ManualClock
	table           *flow.Table
	client, backend *end
	ids             uint64
	policy          config.Policy
	settings        flow.CarrierSettings
	choices         []netip.AddrPort // none is ductBackend, each time
	tried           []error
	cut             int // bytes of data in each segment that the last one forwarded is cut to; 0: it is not
	ended           []*tcpinfo.Carried
}

// end is one of the two peers. Numbers are counted from the initial ones.
type end struct {
	*talk
	name     string
	card     *flow.Card
	mac      lab.MAC
	from, to netip.AddrPort
	iss, irs uint32
	win      uint16
	ts       bool
	val, ecr uint32
	heard    []lab.Segment
}

var (
	nearMAC, farMAC = lab.MAC{2, 0, 0, 0, 0, 1}, lab.MAC{2, 0, 0, 0, 0, 2} // of the cards
	talkClient      = netip.MustParseAddrPort("172.16.0.9:40000")
)

const (
	talkTS   = 1_000_000
	talkPort = 17001
)

func (k *talk) Choose(_, _ netip.AddrPort) (netip.AddrPort, bool) {
	if len(k.choices) == 0 {
		return ductBackend, true
	}
	one := k.choices[0]
	k.choices = k.choices[1:]
	return one, one.IsValid()
}
func (k *talk) Tried(_ netip.AddrPort, err error) { k.tried = append(k.tried, err) }
func (k *talk) Spared(netip.AddrPort)             {}
func (k *talk) Ended(c *tcpinfo.Carried)          { k.ended = append(k.ended, c) }

// stillTalk is a table before anybody has said anything.
func stillTalk(t *testing.T, by tcpinfo.Carrier, change func(*talk)) *talk {
	t.Helper()
	k := &talk{T: t, clock: faketime.NewManualClock(), policy: config.DefaultPolicy()}
	k.policy.Name = "test"
	k.settings = flow.CarrierSettings{Policy: "test", ConnectTimeout: 5 * time.Second}
	if change != nil {
		change(k)
	}
	k.table = flow.New(flow.Options{
		Policies: map[string]config.Policy{"default": config.DefaultPolicy(), "test": k.policy}, Clock: k.clock,
		IDs: func() uint64 { k.ids++; return k.ids },
	})
	k.table.Listen(ductAt, "test")
	k.table.Own("web", k, k.settings)
	k.table.Carry(ductAt, "web", by)
	k.client = &end{talk: k, name: "client", card: k.table.Card(), mac: lab.MAC{2, 0, 0, 0, 0, 8}, from: talkClient, to: ductAt, iss: 100_000, win: 50_000, val: talkTS}
	k.backend = &end{talk: k, name: "backend", card: k.table.Card(), mac: lab.MAC{2, 0, 0, 0, 0, 9}, from: ductBackend, iss: 700_000, win: 50_000, val: 9 * talkTS}
	k.table.Start(nil, nil)
	t.Cleanup(k.table.Close)
	for i, c := range []*flow.Card{k.client.card, k.backend.card} {
		c.Bind(&side{[]string{"wan0", "lan0"}[i]}, func(*frame.Frame) {})
		c.Own([6]byte([]lab.MAC{nearMAC, farMAC}[i]))
		c.Start(func(_ frame.Header, eth, net []byte) { k.hears(append(append([]byte(nil), eth...), net...)) })
	}
	k.way(ductBackend)
	return k
}

// way has the table learn how a backend is reached: by a connection of the stack's.
func (k *talk) way(backend netip.AddrPort) {
	k.Helper()
	own := netip.AddrPortFrom(ductOwn, 17000)
	syn := lab.Craft{SrcMAC: farMAC, DstMAC: k.backend.mac, Src: own, Dst: backend, Flags: lab.SYN, Seq: 100}
	if v := k.backend.card.Outbound(asFrame(syn.Frame())); v != frame.Pass {
		k.Fatalf("the stack's SYN: verdict %d", v)
	}
	answer := lab.Craft{SrcMAC: k.backend.mac, DstMAC: farMAC, Src: backend, Dst: own, Flags: lab.SYN | lab.ACK, Seq: 200, Ack: 101, Win: 1000}
	if v := k.backend.card.Inbound(asFrame(answer.Frame())); v != frame.Pass {
		k.Fatalf("its answer: verdict %d", v)
	}
	k.table.Forget(own, backend)
}

// newTalk is an established connection; options are those of both SYNs, but for
// timestamps, which they have if stamped.
func newTalk(t *testing.T, by tcpinfo.Carrier, stamped bool, change func(*talk)) *talk {
	t.Helper()
	k := stillTalk(t, by, change)
	k.client.ts, k.backend.ts = stamped, stamped
	if by == tcpinfo.Direct {
		k.opened()
	} else {
		k.splice()
	}
	k.client.heard, k.backend.heard = nil, nil
	return k
}

// bothWays runs a test for each carrier, with timestamps and without.
func bothWays(t *testing.T, change func(*talk), test func(k *talk)) {
	t.Helper()
	for _, by := range []tcpinfo.Carrier{tcpinfo.Direct, tcpinfo.Splice} {
		for name, stamped := range map[string]bool{"plain": false, "stamped": true} {
			t.Run(string(by)+"/"+name, func(t *testing.T) { test(newTalk(t, by, stamped, change)) })
		}
	}
}

// each runs a test for each of the two peers; it talks to the other.
func (k *talk) each(test func(p, other *end)) {
	test(k.client, k.backend)
	test(k.backend, k.client)
}

// opens sends the client's SYN, and returns the one that the backend gets.
func (k *talk) opens() lab.Segment {
	k.Helper()
	k.client.say(lab.SYN, 0, 0, "")
	syn := k.backend.hear("a SYN", lab.SYN)
	k.backend.to, k.backend.irs = syn.Src, syn.Seq
	return syn
}

// opened is a direct handshake.
func (k *talk) opened() {
	k.Helper()
	k.opens()
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
	k.client.say(lab.ACK, 1, 1, "")
	k.backend.hear("an ACK", lab.ACK)
}

// splice has the stack make both connections, and joins them.
func (k *talk) splice() {
	k.Helper()
	c, b := k.client, k.backend
	c.irs, b.irs = 5_000_000, 8_000_000
	b.to = netip.AddrPortFrom(ductOwn, talkPort)
	c.passes(lab.SYN, 0, 0)
	c.stack(lab.SYN|lab.ACK, 0, 1)
	c.passes(lab.ACK, 1, 1)
	k.table.Adopt(c.to, c.from, 21, "test", true)
	b.stack(lab.SYN, 0, 0)
	k.table.Adopt(b.to, b.from, 22, "test", false)
	b.passes(lab.SYN|lab.ACK, 0, 1)
	b.stack(lab.ACK, 1, 1)
	if err := k.table.Splice(flow.Ends{Local: c.to, Remote: c.from, ID: 21}, flow.Ends{Local: b.to, Remote: b.from, ID: 22}, "web"); err != nil {
		k.Fatal(err)
	}
}

// stack is what gVisor says to the peer.
func (e *end) stack(flags lab.Flags, seq, ack uint32) {
	e.Helper()
	s := lab.Craft{SrcMAC: nearMAC, DstMAC: e.mac, Src: e.to, Dst: e.from, Flags: flags, Seq: e.irs + seq, Win: 40_000}
	if e.name == "backend" {
		s.SrcMAC = farMAC
	}
	if flags.Has(lab.ACK) {
		s.Ack = e.iss + ack
	}
	if s.Options = e.options(flags); e.ts {
		e.ecr = 3 * talkTS
		copy(s.Options[len(s.Options)-8:], binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, e.ecr), e.val))
	}
	if v := e.card.Outbound(asFrame(s.Frame())); v != frame.Pass {
		e.Fatalf("the stack's %v: verdict %d", flags, v)
	}
}

// passes sends a segment that is the stack's.
func (e *end) passes(flags lab.Flags, seq, ack uint32) {
	e.Helper()
	if v := e.say(flags, seq, ack, ""); v != frame.Pass {
		e.Fatalf("the %s's %v: verdict %d", e.name, flags, v)
	}
}

// craft is a segment as it should be.
func (e *end) craft(flags lab.Flags, seq, ack uint32, data string) lab.Craft {
	c := lab.Craft{SrcMAC: e.mac, DstMAC: nearMAC, Src: e.from, Dst: e.to, Flags: flags, Seq: e.iss + seq, Win: e.win, Payload: []byte(data)}
	if e.name == "backend" {
		c.DstMAC = farMAC
	}
	if flags.Has(lab.ACK) {
		c.Ack = e.irs + ack
	}
	c.Options = e.options(flags)
	return c
}

// options are those of a segment: the timestamp stands last.
func (e *end) options(flags lab.Flags) (o []byte) {
	if flags.Has(lab.SYN) {
		o = []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}
	}
	if e.ts {
		o = append(o, 1, 1, 8, 10)
		o = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(o, e.val), e.ecr)
	}
	return o
}

func asFrame(b []byte) *frame.Frame {
	return &frame.Frame{Eth: b[:frame.EthernetSize:frame.EthernetSize], Net: b[frame.EthernetSize:], Room: make([]byte, frame.RoomSize)}
}

// say sends a segment, and returns what the table has made of it.
func (e *end) say(flags lab.Flags, seq, ack uint32, data string) frame.Verdict {
	return e.send(e.craft(flags, seq, ack, data))
}

func (e *end) send(c lab.Craft) frame.Verdict { return e.by(e.card, c) }

// by sends a segment by a card of the box.
func (e *end) by(card *flow.Card, c lab.Craft) frame.Verdict {
	f := asFrame(c.Frame())
	v := card.Inbound(f)
	switch v {
	case frame.Forward:
		all := append(append([]byte(nil), f.Head...), f.Body...)
		if f.Meta.Flags&frame.NeedsCsum != 0 && !frame.Complete(&f.Meta, all[frame.EthernetSize:]) {
			e.Fatalf("the checksum of what is forwarded can't be made: %+v", f.Meta)
		}
		e.cut = int(f.Meta.GSOSize)
		e.hears(all)
	case frame.Reply:
		e.hears(append(append([]byte(nil), f.Eth...), f.Net...))
	}
	return v
}

// hears gives a frame of the table's to the peer that it is for.
func (k *talk) hears(f []byte) {
	k.Helper()
	s, ok := lab.ParseSegment(f)
	if !ok || !s.Complete {
		k.Fatalf("the table has sent what is no right segment: % x", f)
	}
	for _, e := range []*end{k.client, k.backend} {
		if s.Dst == e.from {
			if val, _ := stamp(s); val != 0 {
				e.ecr = val
			}
			e.heard = append(e.heard, s)
			return
		}
	}
	k.Fatalf("the table has sent a segment to nobody: %v", s)
}

// next is the first segment that the peer has heard and not looked at.
func (e *end) next() (s lab.Segment, ok bool) {
	if len(e.heard) == 0 {
		return s, false
	}
	s, e.heard = e.heard[0], e.heard[1:]
	return s, true
}

// hear wants the next segment to have those flags, PSH not counted.
func (e *end) hear(what string, flags lab.Flags) lab.Segment {
	e.Helper()
	s, ok := e.next()
	if !ok {
		e.Fatalf("the %s hears nothing, want %s", e.name, what)
	}
	if s.Flags&^lab.PSH != flags {
		e.Fatalf("the %s hears %s, want %s", e.name, e.text(s), what)
	}
	return s
}

// hearAt wants it with those numbers too.
func (e *end) hearAt(what string, flags lab.Flags, seq, ack uint32) lab.Segment {
	e.Helper()
	s := e.hear(what, flags)
	if s.Seq-e.irs != seq || flags.Has(lab.ACK) && s.Ack-e.iss != ack {
		e.Errorf("the %s hears %s, want %s <SEQ=%d><ACK=%d>", e.name, e.text(s), what, seq, ack)
	}
	return s
}

// silence wants nothing to have been heard.
func (e *end) silence(why string) {
	e.Helper()
	for s, ok := e.next(); ok; s, ok = e.next() {
		e.Errorf("%s: the %s hears %s, want nothing", why, e.name, e.text(s))
	}
}

func (e *end) text(s lab.Segment) string {
	return fmt.Sprintf("[%s] <SEQ=%d><ACK=%d> window %d data %q", s.Flags, int32(s.Seq-e.irs), int32(s.Ack-e.iss), s.Win, s.Payload)
}

// exchange moves five bytes each way, and wants the connection to be as it was.
func (k *talk) exchange(cseq, bseq uint32) {
	k.Helper()
	c, b := k.client, k.backend
	c.silence("before an exchange")
	b.silence("before an exchange")
	c.say(lab.ACK|lab.PSH, cseq, bseq, "hello")
	b.hearAt("data", lab.ACK, cseq, bseq)
	b.say(lab.ACK|lab.PSH, bseq, cseq+5, "world")
	c.hearAt("data", lab.ACK, bseq, cseq+5)
	c.say(lab.ACK, cseq+5, bseq+5, "")
	b.hearAt("an ACK", lab.ACK, cseq+5, bseq+5)
}

// live is the connection, as `conns` shows it.
func (k *talk) live() (one *tcpinfo.Carried) {
	k.table.ListCarried("web", func(c *tcpinfo.Carried) { one = c })
	return one
}

// states wants the legs to be in those states.
func (k *talk) states(client, backend string) {
	k.Helper()
	c := k.live()
	if c == nil {
		k.Fatalf("nothing is carried, want %s and %s", client, backend)
	}
	if c.Client.Info.State != client || c.Backend.Info.State != backend {
		k.Errorf("the legs are in %s and %s, want %s and %s", c.Client.Info.State, c.Backend.Info.State, client, backend)
	}
}

// end wants the connection to have ended, and returns how.
func (k *talk) end() *tcpinfo.Carried {
	k.Helper()
	if len(k.ended) != 1 {
		k.Fatalf("%d connections have ended, want one; legs %v", len(k.ended), k.table.CarriedStates())
	}
	return k.ended[0]
}

// reason is how an end is told.
func reason(c *tcpinfo.Carried) string {
	var b strings.Builder
	fmt.Fprintf(&b, "first %s", c.First)
	if c.FirstOf != "" {
		fmt.Fprintf(&b, " (%s)", c.FirstOf)
	}
	if c.FirstBy != "" {
		fmt.Fprintf(&b, " by %s", c.FirstBy)
	}
	if c.ByRST {
		b.WriteString(" with RST")
	}
	return b.String()
}

// closes ends the connection by four segments, the client's FIN first.
func (k *talk) closes(cseq, bseq uint32) {
	k.Helper()
	c, b := k.client, k.backend
	c.say(lab.FIN|lab.ACK, cseq, bseq, "")
	b.hearAt("the client's FIN", lab.FIN|lab.ACK, cseq, bseq)
	b.say(lab.ACK, bseq, cseq+1, "")
	c.hearAt("its ACK", lab.ACK, bseq, cseq+1)
	k.states("CLOSE-WAIT", "FIN-WAIT-2")
	b.say(lab.FIN|lab.ACK, bseq, cseq+1, "")
	c.hearAt("the backend's FIN", lab.FIN|lab.ACK, bseq, cseq+1)
	k.states("LAST-ACK", "FIN-WAIT-2")
	c.say(lab.ACK, cseq+1, bseq+1, "")
	b.hearAt("the last ACK", lab.ACK, cseq+1, bseq+1)
	if e := k.end(); reason(e) != "first peer (client)" || !e.Client.Life.FinAcked || !e.Backend.Life.FinAcked {
		k.Errorf("it has ended as %s, want the client's FIN first and both acknowledged: %+v", reason(e), e)
	}
}
