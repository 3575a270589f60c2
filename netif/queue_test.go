package netif

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif/frame"
)

func TestConnectionsOverSeveralQueues(t *testing.T) {
	for _, queues := range []int{2, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			r := newRig(t, wire, EndpointOptions{Queues: queues})
			var owned sync.WaitGroup
			for i := range 8 {
				owned.Go(func() { r.exchange(families[i%2].ours) })
			}
			owned.Wait()
			if n := r.e.Counters(); n.RxBadChecksum+n.RxMalformed+n.RxErrors > 0 {
				t.Errorf("frames were dropped: %+v", n)
			}
		})
	}
}

// census is a filter that counts the frames of TCP port 80 by queue and by
// the number in their sequence number.
type census struct {
	mu     sync.Mutex // guards what follows
	queues map[*frame.Frame]int
	flows  map[uint16]*frame.Frame // the queue of each source port
	split  int                     // frames whose port had been in another queue
	seen   map[uint32]int
}

func newCensus() *census {
	return &census{queues: map[*frame.Frame]int{}, flows: map[uint16]*frame.Frame{}, seen: map[uint32]int{}}
}

func (*census) Outbound(*frame.Frame) frame.Verdict { return frame.Pass }

// Inbound tells queues apart by their Frame, of which each has one.
func (c *census) Inbound(f *frame.Frame) frame.Verdict {
	l, ok := frame.Parse(f.Net)
	if !ok || l.Protocol != frame.ProtoTCP {
		return frame.Drop
	}
	port := binary.BigEndian.Uint16(f.Net[l.Transport:])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queues[f]++
	if q, ok := c.flows[port]; ok && q != f {
		c.split++
	}
	c.flows[port] = f
	c.seen[binary.BigEndian.Uint32(f.Net[l.Transport+4:])]++
	return frame.Drop
}

func TestEachFrameIsHandledOnceAndFlowsStayTogether(t *testing.T) {
	for _, queues := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			c := newCensus()
			r, raw := rawRig(t, EndpointOptions{Queues: queues, Filter: c})
			const flows, each = 256, 4
			for i := range uint32(flows * each) {
				r.mustSend(raw, numbered(i, uint16(1024+i%flows)))
			}
			until(t, "every frame is handled", func() bool { // counted before the filter sees it
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.seen) >= flows*each
			})
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.seen) != flows*each || r.e.Counters().RxFrames != flows*each {
				t.Errorf("%d frames were handled, %d of them different, want %d", r.e.Counters().RxFrames, len(c.seen), flows*each)
			}
			if len(c.queues) != queues {
				t.Errorf("%d queues have got frames, want %d: %v", len(c.queues), queues, c.queues)
			}
			if c.split > 0 {
				t.Errorf("%d frames were in another queue than the one before them of their connection", c.split)
			}
		})
	}
}

// numbered is a segment with a number and a source port.
func numbered(n uint32, port uint16) []byte {
	p := tcp4(0x10, n, nil)
	binary.BigEndian.PutUint16(p[20:], port)
	return append(ethernet(frame.TypeIPv4), finish(p, 4)...)
}

// While the second queue is opened, the first gets everything already.
func TestNoFrameIsHandledTwiceWhileQueuesOpen(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{})
	stop, owned := make(chan struct{}), sync.WaitGroup{}
	owned.Go(func() {
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = raw.Send(numbered(i, uint16(i))) // a full queue loses some
			}
		}
	})
	for range 10 {
		c := newCensus()
		var e *Endpoint
		r.inCard(func() (err error) {
			e, err = Open("eth0", EndpointOptions{Queues: 16, Filter: c})
			return err
		})
		until(t, "frames are handled", func() bool { return e.Counters().RxFrames > 100 })
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		if len(c.seen) == 0 {
			t.Error("no frame was handled")
		}
		for n, times := range c.seen {
			if times > 1 {
				t.Errorf("frame %d was handled %d times", n, times)
				break
			}
		}
		c.mu.Unlock()
	}
	close(stop)
	owned.Wait()
}

// Somebody else's fanout group may have any number.
func TestManyEndpointsHaveTheirOwnGroups(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{})
	for range 8 {
		c := newCensus()
		openOn(t, r.card, EndpointOptions{Queues: 2, Filter: c})
		r.mustSend(raw, numbered(7, 7))
		until(t, "each Endpoint has the frame", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.seen[7] == 1
		})
	}
}

func TestCorruptFramesNeverReachTheConnection(t *testing.T) {
	var link *lab.ImpairedLink
	r := newRig(t, func(t testing.TB, peer, card *lab.Host) uint16 {
		link = labtest.WireImpaired(t, peer, "eth0", card, "eth0", lab.Impairment{})
		return 0
	}, EndpointOptions{Queues: 1})
	for _, f := range families {
		before := r.e.Counters().RxBadChecksum
		s := r.streamTo(f.ours) // the neighbours know each other
		link.Set(lab.Impairment{Corrupt: 0.005, Seed: 5})
		s.advance(enough)
		link.Set(lab.Impairment{})
		s.finish()
		if r.e.Counters().RxBadChecksum == before {
			t.Errorf("no wrong checksum was counted over %s", f.name)
		}
	}
	if got := r.stack.Stats().TCP.ChecksumErrors.Value(); got != 0 {
		t.Errorf("the stack itself saw %d wrong checksums, want them stopped before", got)
	}
}
