package stack_test

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack"
)

// delayed is an AckDelay and what it sent by itself: the acknowledgement numbers.
type delayed struct {
	*stack.AckDelay
	mu   sync.Mutex // guards late: shards send each on their own
	late []uint32
}

func newDelayed() *delayed {
	d := &delayed{AckDelay: stack.NewAckDelay()}
	d.Start(func(_ frame.Header, eth, net []byte) {
		if len(eth) != frame.EthernetSize {
			panic("not the link header that was given")
		}
		tcp := 20
		if net[0]>>4 == 6 {
			tcp = 40
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.late = append(d.late, binary.BigEndian.Uint32(net[tcp+8:]))
	})
	return d
}

// sent are the acknowledgements that it sent by itself until now.
func (d *delayed) sent() []uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.late)
}

// out is one of our segments on its way to the wire: it reports whether it goes on.
func (d *delayed) out(port uint16, flags header.TCPFlags, ack uint32, data int) bool {
	return d.outBytes(packet(port, flags, ack, data, nil))
}

func (d *delayed) outBytes(net []byte) bool {
	f := &frame.Frame{Eth: make([]byte, frame.EthernetSize), Net: net}
	return d.Outbound(f) == frame.Pass
}

// packet is the headers of a segment of ours, with as many bytes of data as
// its length says, which are elsewhere.
func packet(port uint16, flags header.TCPFlags, ack uint32, data int, options []byte) []byte {
	size := header.TCPMinimumSize + len(options)
	b := make(header.TCP, size)
	b.Encode(&header.TCPFields{SrcPort: 80, DstPort: port, SeqNum: 1, AckNum: ack, DataOffset: uint8(size), Flags: flags, WindowSize: 1000})
	copy(b[header.TCPMinimumSize:], options)
	p := ipv4(box4, peer4, header.TCPProtocolNumber, b)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)+data))
	return p
}

const (
	ackFlag = header.TCPFlagAck
	dataFl  = header.TCPFlagAck | header.TCPFlagPsh
)

func TestAnAckRidesOnTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDelayed()
		defer d.Close()
		d.out(1, dataFl, 100, 10) // the connection becomes known
		for ack := uint32(200); ack < 2000; ack += 100 {
			if d.out(1, ackFlag, ack, 0) {
				t.Fatalf("the ACK of %d was not held", ack)
			}
			time.Sleep(time.Millisecond)
			if !d.out(1, dataFl, ack, 50) {
				t.Fatal("data was held")
			}
		}
		time.Sleep(time.Second)
		if len(d.sent()) != 0 || d.Count.Saved.Load() != 18 || d.Count.Late.Load() != 0 {
			t.Errorf("%v went out late, %d were saved, want none and 18", d.sent(), d.Count.Saved.Load())
		}
	})
}

func TestAnAckWithoutAnAnswerGoesOutSoonAndTheNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDelayed()
		defer d.Close()
		d.out(1, dataFl, 100, 10)
		if d.out(1, ackFlag, 200, 0) {
			t.Fatal("the first ACK was not held")
		}
		time.Sleep(19 * time.Millisecond)
		synctest.Wait()
		if len(d.sent()) != 0 {
			t.Errorf("%v went out after 19 ms", d.sent())
		}
		time.Sleep(7 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(d.sent(), []uint32{200}) {
			t.Errorf("%v went out after 26 ms, want 200", d.sent())
		}
		for ack := uint32(300); ack < 1000; ack += 100 {
			if !d.out(1, ackFlag, ack, 0) {
				t.Fatalf("the ACK of %d was held, though nothing came to carry the last one", ack)
			}
		}
	})
}

func TestWhatIsNewsIsNotDelayed(t *testing.T) {
	timestamps := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	sack := []byte{1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	closed := packet(1, ackFlag, 200, 0, nil)
	binary.BigEndian.PutUint16(closed[20+14:], 0)
	for _, c := range []struct {
		name   string
		before func(d *delayed)
		packet []byte
		held   bool
	}{
		{"new bytes acknowledged", nil, packet(1, ackFlag, 200, 0, nil), true},
		{"with timestamps", nil, packet(1, ackFlag, 200, 0, timestamps), true},
		{"a full segment", nil, packet(1, ackFlag, 100+1460, 0, nil), true},
		{"around the end of the sequence numbers", func(d *delayed) { d.out(1, dataFl, 1<<32-50, 1) }, packet(1, ackFlag, 50, 0, nil), true},
		{"more than a full segment", nil, packet(1, ackFlag, 100+1461, 0, nil), false},
		{"the second one", func(d *delayed) { d.out(1, ackFlag, 150, 0) }, packet(1, ackFlag, 200, 0, nil), false},
		{"a duplicate", nil, packet(1, ackFlag, 100, 0, nil), false},
		{"a duplicate of what is held", func(d *delayed) { d.out(1, ackFlag, 200, 0) }, packet(1, ackFlag, 200, 0, nil), false},
		{"an older one", nil, packet(1, ackFlag, 50, 0, nil), false},
		{"SACK blocks", nil, packet(1, ackFlag, 200, 0, sack), false},
		{"a closed window", nil, closed, false},
		{"data", nil, packet(1, dataFl, 200, 1, nil), false},
		{"FIN", nil, packet(1, ackFlag|header.TCPFlagFin, 200, 0, nil), false},
		{"RST", nil, packet(1, ackFlag|header.TCPFlagRst, 200, 0, nil), false},
		{"after our FIN", func(d *delayed) { d.out(1, ackFlag|header.TCPFlagFin, 100, 0) }, packet(1, ackFlag, 200, 0, nil), false},
		{"an unknown connection", nil, packet(2, ackFlag, 200, 0, nil), false},
		{"ports used anew after a FIN", func(d *delayed) {
			d.out(1, ackFlag|header.TCPFlagFin, 100, 0)
			d.out(1, header.TCPFlagSyn|ackFlag, 100, 0)
		}, packet(1, ackFlag, 200, 0, nil), true},
		{"not TCP", nil, ipv4(box4, peer4, header.UDPProtocolNumber, make([]byte, 20)), false},
		{"too short", nil, []byte{0x45}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDelayed()
			defer d.Close()
			d.out(1, dataFl, 100, 10)
			if c.before != nil {
				c.before(d)
			}
			if held := !d.outBytes(c.packet); held != c.held {
				t.Errorf("held is %v, want %v", held, c.held)
			}
		})
	}
}

func TestCloseSendsWhatIsHeldAndHoldsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDelayed()
		for port := range uint16(100) {
			d.out(port, dataFl, 100, 10)
			d.out(port, ackFlag, 200+uint32(port), 0)
		}
		held := 100 - int(d.Count.Saved.Load())
		d.Close()
		if len(d.sent()) == 0 || len(d.sent()) > held {
			t.Errorf("%d of at most %d held ACKs went out", len(d.sent()), held)
		}
		if !d.out(1, ackFlag, 5000, 0) {
			t.Error("an ACK was held after Close")
		}
	})
}

// However many connections there are, each ACK goes out once: held, late,
// pushed out or passed on.
func TestNoAckIsLostAmongManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDelayed()
		highest := make(map[uint16]uint32)
		passed := make(map[uint16]uint32)
		const conns = 20000
		for round := uint32(1); round <= 3; round++ {
			for port := range uint16(conns) {
				ack := uint32(port)*1000 + round*100 // no two the same
				if round == 1 {
					d.out(port, dataFl, ack-100, 10)
				}
				highest[port] = ack
				if d.out(port, ackFlag, ack, 0) {
					passed[port] = ack
				}
				if port%500 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}
		d.Close()
		sent := make(map[uint32]bool)
		for _, ack := range d.sent() {
			sent[ack] = true
		}
		missing := 0
		for port, ack := range highest {
			if passed[port] != ack && !sent[ack] {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("the last ACK of %d of %d connections never went out", missing, conns)
		}
	})
}
