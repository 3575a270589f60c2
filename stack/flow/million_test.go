package flow_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/netif/frame"
	"github.com/lastack/lastack/stack/flow"
)

// crowd makes connections go through a card from their SYN into TIME-WAIT, by
// segments written into one frame over and over.
type crowd struct {
	clock *faketime.ManualClock
	table *flow.Table
	card  *flow.Card
	frame frame.Frame
	bytes [14 + 40]byte
	size  byte // bytes of data that segments to clients say they have
}

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

func newCrowd(most int) *crowd {
	p := config.DefaultPolicy()
	p.TimeWait.Max = most
	c := &crowd{clock: faketime.NewManualClock()}
	c.table = flow.New(flow.Options{Policies: map[string]config.Policy{"default": p}, Clock: c.clock})
	c.table.Listen(netip.MustParseAddrPort("192.0.2.1:80"), "default")
	c.card = c.table.Card()
	return c
}

// show makes a segment of the n-th client, or to it, and shows it to the card.
func (c *crowd) show(n uint32, inbound bool, flags byte, seq, ack uint32) frame.Verdict {
	c.frame = frame.Frame{Eth: c.bytes[:14], Net: c.bytes[14:], Meta: frame.Header{Flags: frame.DataValid}}
	p := c.frame.Net
	clear(p)
	p[0], p[3], p[8], p[9] = 0x45, 40, 64, frame.ProtoTCP
	client, box := p[12:16], p[16:20]
	cport, bport := p[20:22], p[22:24]
	if !inbound {
		client, box, cport, bport = box, client, bport, cport
		p[3] += c.size
	}
	binary.BigEndian.PutUint32(client, 10<<24|n/50000)
	binary.BigEndian.PutUint16(cport, uint16(10000+n%50000))
	copy(box, []byte{192, 0, 2, 1})
	bport[1] = 80
	binary.BigEndian.PutUint32(p[24:], seq)
	binary.BigEndian.PutUint32(p[28:], ack)
	p[32], p[33], p[34] = 5<<4, flags, 0xff
	binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p[:20], 0))
	if inbound {
		return c.card.Inbound(&c.frame)
	}
	return c.card.Outbound(&c.frame)
}

// end takes the n-th client from its SYN to our TIME-WAIT: we close first.
func (c *crowd) end(n uint32) {
	c.show(n, true, flagSYN, 1000, 0)
	c.show(n, false, flagSYN|flagACK, 5000, 1001)
	c.show(n, true, flagACK, 1001, 5001)
	c.show(n, false, flagFIN|flagACK, 5001, 1001)
	c.show(n, true, flagFIN|flagACK, 1001, 5002)
	c.show(n, false, flagACK, 5002, 1002)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A million connections in TIME-WAIT at once, each of which still answers: in
// 256 bytes each, and all of it given back when they are over.
func TestAMillionTimeWaitsFitInto256Megabytes(t *testing.T) {
	n, most := 1_000_000, uint64(256)
	if testing.Short() { // the race detector takes minutes for a million
		n, most = 250_000, 264 // what the table has once is shared by fewer
	}
	before := heap()
	c := newCrowd(n)
	for i := range uint32(n) {
		c.end(i)
	}
	if got := c.table.Held(); got != n {
		t.Fatalf("%d flows are in TIME-WAIT, want %d", got, n)
	}
	each := (heap() - before) / uint64(n)
	t.Logf("%d flows take %d bytes each", n, each)
	if each > most {
		t.Errorf("a flow takes %d bytes, want at most %d", each, most)
	}
	if got := c.show(uint32(n)*7/9, true, flagFIN|flagACK, 1001, 5002); got != frame.Reply {
		t.Errorf("a FIN that comes again gets verdict %d, want an answer", got)
	}
	c.table.Start(nil, nil)
	defer c.table.Close()
	c.clock.Advance(61 * time.Second)
	if got := c.table.Len(); got != 0 {
		t.Errorf("%d flows are left after time_wait.duration", got)
	}
	if left := int64(heap()) - int64(before); left > 8<<20 {
		t.Errorf("%d bytes are left when all are over", left)
	}
	runtime.KeepAlive(c)
}

// Beyond time_wait.max the oldest goes.
func TestBeyondTheMaximumTheOldestTimeWaitGoes(t *testing.T) {
	c := newCrowd(100)
	for i := range uint32(150) {
		c.end(i)
		c.clock.Advance(time.Millisecond)
	}
	if got := c.table.Held(); got != 100 {
		t.Errorf("%d flows are in TIME-WAIT, want 100", got)
	}
	for i := range uint32(150) {
		// A flow answers data; nobody in the table has anything to say.
		held := c.show(i, true, flagFIN|flagACK, 1001, 5002) == frame.Reply
		if want := i >= 50; held != want {
			t.Errorf("the %d. of 150 is held: %v, want %v", i, held, want)
		}
	}
	if got := c.table.Count.Evicted.Load(); got != 50 {
		t.Errorf("%d are counted as evicted, want 50", got)
	}
}

// A connection whose handshake the table has not seen, as with SYN cookies in a
// flood, is followed from its first segment on.
func TestAConnectionThatIsFirstSeenInTheMiddleGetsItsTimeWait(t *testing.T) {
	c := newCrowd(100)
	box, client := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("10.0.0.0:10007")
	c.table.Adopt(box, client, 1, "default", true)
	if got := c.show(7, true, flagACK, 1001, 5001); got != frame.Pass {
		t.Errorf("its first ACK gets verdict %d", got)
	}
	c.show(7, false, flagFIN|flagACK, 5001, 1001)
	c.show(7, true, flagFIN|flagACK, 1001, 5002)
	c.show(7, false, flagACK, 5002, 1002)
	if state, _ := c.table.State(box, client, 1); state != flow.TimeWait {
		t.Errorf("it is %s, want TIME-WAIT", state)
	}
	if got := c.show(7, true, flagFIN|flagACK, 1001, 5002); got != frame.Reply {
		t.Errorf("a FIN that comes again gets verdict %d, want an answer", got)
	}
}

// The time of one operation among a million flows, in nanoseconds.
func BenchmarkAmongAMillionTimeWaits(b *testing.B) {
	const n = 1_000_000
	fill := func() *crowd {
		c := newCrowd(2 * n)
		for i := range uint32(n) {
			c.end(i)
		}
		return c
	}
	b.Run("insert", func(b *testing.B) {
		c := fill()
		next := uint32(n)
		for b.Loop() {
			// Six segments, the last of which enters TIME-WAIT.
			c.end(next)
			next++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/6, "ns/segment")
	})
	b.Run("lookup", func(b *testing.B) {
		c := fill()
		i := uint32(0)
		for b.Loop() {
			i = i*1664525 + 1013904223
			c.show(i%n, true, flagRST, 1002, 0)
		}
	})
	b.Run("expire", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			c := fill()
			c.clock.Advance(59 * time.Second)
			c.table.Start(nil, nil)
			b.StartTimer()
			c.clock.Advance(2 * time.Second)
			b.StopTimer()
			if c.table.Len() != 0 {
				b.Fatal("some are left")
			}
			c.table.Close()
			b.StartTimer()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/flow")
	})
}

// While the wheel ends a million flows at once, a frame never waits long.
func BenchmarkAFrameWhileAMillionExpire(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		b.StopTimer()
		c := newCrowd(2 * n)
		for i := range uint32(n) {
			c.end(i)
		}
		c.clock.Advance(59 * time.Second)
		c.table.Start(nil, nil)
		done := make(chan struct{})
		var other crowd
		other.table, other.card = c.table, c.card
		b.StartTimer()
		go func() {
			defer close(done)
			c.clock.Advance(2 * time.Second)
		}()
		var waits []time.Duration
		for i, over := uint32(0), false; !over; i++ {
			begin := time.Now()
			other.show(i%n, true, flagACK, 1, 1)
			waits = append(waits, time.Since(begin))
			select {
			case <-done:
				over = true
			default:
			}
		}
		slices.Sort(waits)
		b.ReportMetric(float64(waits[len(waits)-1].Microseconds()), "worst-µs")
		b.ReportMetric(float64(waits[len(waits)*999/1000].Microseconds()), "p99.9-µs")
		b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
		b.ReportMetric(float64(len(waits)), "frames")
		c.table.Close()
	}
}
