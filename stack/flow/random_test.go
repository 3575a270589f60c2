package flow_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// noise shows a table random segments, and ICMP errors about them, of some
// clients: near enough to what is right to come deep, in both directions.
type noise struct {
	*crowd
	rng     *rand.Rand
	clients uint32
}

// number is one that a connection of crowd's uses, or lies beside it.
func (n *noise) number(base uint32) uint32 {
	switch n.rng.IntN(8) {
	case 0:
		return n.rng.Uint32()
	case 1:
		return base + n.rng.Uint32N(1<<17) - 1<<16
	}
	return base + n.rng.Uint32N(4)
}

// segment is a random one, shown to the card as it is.
func (n *noise) segment() {
	client, inbound := n.rng.Uint32N(n.clients), n.rng.IntN(2) == 0
	flags := []byte{flagSYN, flagSYN | flagACK, flagACK, flagACK, flagACK | flagFIN, flagRST, flagRST | flagACK, byte(n.rng.Uint32())}[n.rng.IntN(8)]
	seq, ack := n.number(1000), n.number(5000)
	if !inbound {
		seq, ack = ack, seq
	}
	n.frame = frame.Frame{Eth: make([]byte, 14), Net: n.packet(client, inbound, flags, seq, ack)}
	if n.rng.IntN(50) == 0 {
		n.frame.Net[n.rng.IntN(len(n.frame.Net))] ^= byte(1 + n.rng.IntN(255))
	}
	if n.rng.IntN(2) == 0 {
		n.frame.Meta.Flags = frame.DataValid
	}
	if inbound {
		n.card.Inbound(&n.frame)
		return
	}
	n.card.Outbound(&n.frame)
}

// packet is an IPv4 packet with random options and data.
func (n *noise) packet(client uint32, inbound bool, flags byte, seq, ack uint32) []byte {
	options := make([]byte, 4*n.rng.IntN(11))
	switch n.rng.IntN(3) {
	case 0:
		for i := range options {
			options[i] = byte(n.rng.Uint32N(12))
		}
	case 1:
		if len(options) >= 12 {
			copy(options, []byte{1, 1, 8, 10})
			binary.BigEndian.PutUint32(options[4:], n.number(70_000))
		}
	}
	p := make([]byte, 40+len(options)+n.rng.IntN(40))
	copy(p[40:], options)
	p[0], p[8], p[9] = 0x45, 64, frame.ProtoTCP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	from, to := p[12:16], p[16:20]
	fport, tport := p[20:22], p[22:24]
	if !inbound {
		from, to, fport, tport = to, from, tport, fport
	}
	binary.BigEndian.PutUint32(from, 10<<24)
	binary.BigEndian.PutUint16(fport, uint16(10000+client))
	copy(to, []byte{192, 0, 2, 1})
	tport[1] = 80
	binary.BigEndian.PutUint32(p[24:], seq)
	binary.BigEndian.PutUint32(p[28:], ack)
	p[32], p[33] = byte(5+len(options)/4)<<4, flags
	binary.BigEndian.PutUint16(p[34:], uint16(n.rng.Uint32()>>(16+n.rng.IntN(16))))
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	if l, ok := frame.Parse(p); ok {
		binary.BigEndian.PutUint16(p[36:], l.TransportSum(p))
	}
	return p
}

// step is a segment of a connection that goes well, at any time.
func (n *noise) step() {
	steps := []struct {
		inbound  bool
		flags    byte
		seq, ack uint32
	}{
		{true, flagSYN, 1000, 0}, {false, flagSYN | flagACK, 5000, 1001}, {true, flagACK, 1001, 5001},
		{true, flagFIN | flagACK, 1001, 5001}, {false, flagACK, 5001, 1002}, {false, flagFIN | flagACK, 5001, 1002},
		{false, flagFIN | flagACK, 5001, 1001}, {true, flagACK, 1001, 5002}, {true, flagFIN | flagACK, 1001, 5002},
		{false, flagACK, 5002, 1002}, {true, flagACK, 1002, 5002},
	}
	s := steps[n.rng.IntN(len(steps))]
	n.show(n.rng.Uint32N(n.clients), s.inbound, s.flags, s.seq, s.ack)
}

// icmp is an error of any kind about a segment of ours.
func (n *noise) icmp() {
	quote := n.packet(n.rng.Uint32N(n.clients), false, flagACK, n.number(5000), 0)
	p := append(make([]byte, 28), quote[:n.rng.IntN(len(quote)+1)]...)
	p[0], p[8], p[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], []byte{10, 9, 9, 9})
	copy(p[16:], []byte{192, 0, 2, 1})
	p[20], p[21] = byte(n.rng.IntN(20)), byte(n.rng.IntN(6))
	binary.BigEndian.PutUint32(p[24:], n.rng.Uint32N(3000))
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	n.frame = frame.Frame{Eth: make([]byte, 14), Net: p}
	n.card.Inbound(&n.frame)
}

// Frames are hostile: millions of them crash nothing, leave the table with as
// many flows as it counts, and it knows the next connection as well as the first.
func TestRandomSegmentsCrashNothing(t *testing.T) {
	total := 3_000_000
	if testing.Short() {
		total = 100_000
	}
	n := &noise{newCrowd(1000), rand.New(rand.NewPCG(uint64(total), 3)), 300}
	n.table.Start(nil, nil)
	defer n.table.Close()
	seen := make(map[flow.State]int)
	for i := range total {
		switch k := n.rng.IntN(40); {
		case k == 0:
			n.icmp()
		case k < 4:
			n.segment()
		default:
			n.step()
		}
		if i%1000 == 0 {
			n.clock.Advance(time.Duration(n.rng.IntN(300)) * time.Millisecond)
		}
		if i%10_000 == 0 {
			for _, row := range n.table.List() {
				seen[row.State]++
			}
		}
	}
	for _, s := range []flow.State{flow.SynSent, flow.SynReceived, flow.Established, flow.FinWait1, flow.FinWait2, flow.CloseWait, flow.Closing, flow.LastAck, flow.TimeWait} {
		if seen[s] == 0 {
			t.Errorf("no flow was ever in %s: the noise is not varied enough (%v)", s, seen)
		}
	}
	states := 0
	for _, k := range n.table.States() {
		states += k
	}
	if got := n.table.Len(); got != states {
		t.Errorf("%d flows are counted, %d are there", got, states)
	}
	for _, row := range n.table.List() { // all are ended, as the stack would
		if row.State != flow.TimeWait {
			n.table.Forget(row.Local, row.Remote)
		}
	}
	n.clock.Advance(5 * time.Minute)
	if got := n.table.Len(); got > 0 {
		t.Errorf("%d flows are left: %v", got, n.table.States())
	}
	if held, half := n.table.Held(), n.table.HalfOpen(); held != 0 || half != 0 {
		t.Errorf("%d in TIME-WAIT and %d half open are counted, want none", held, half)
	}
	n.end(5)
	if got := n.show(5, true, flagFIN|flagACK, 1001, 5002); got != frame.Reply {
		t.Errorf("a connection after all that gets verdict %d in its TIME-WAIT", got)
	}
}
