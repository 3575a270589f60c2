package lab

import (
	"container/heap"
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LineStats counts the frames of one direction of an ImpairedLink.
type LineStats struct {
	Frames, Bytes                              uint64 // that came in
	Delivered                                  uint64 // that went out, second copies too
	Lost, Duplicated, Corrupted, Reordered     uint64 // by decision
	QueueDrops                                 uint64 // for want of rate
	Eaten                                      uint64 // by the cut
	RingDrops, Oversize, SendErrors, Unchanged uint64 // not wanted, see below
	// RingDrops came faster than the line could take them, Oversize are large
	// frames that did. Unchanged are super-frames, which no wire carries:
	// somebody turned the offloads of an end on. They are never damaged, and
	// the kernel cuts them. SendErrors: the receiving end is down.
}

// line is one direction: a goroutine takes frames from one port and decides,
// another sends them to the other port when their time has come.
type line struct {
	in, out *port
	dir     Direction
	wake    chan struct{} // the head of the queue changed
	stop    chan struct{}

	mu       sync.Mutex
	im       Impairment
	dice     dice
	cut      bool
	queue    queue
	seq      uint64
	free     time.Time // when the line has sent what it holds
	last     time.Time // when the last frame in order arrives
	stats    LineStats
	leftover [][]byte // buffers to use again
}

func newLine(in, out *port, d Direction, im Impairment) *line {
	l := &line{in: in, out: out, dir: d, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	l.set(im)
	return l
}

func (l *line) set(im Impairment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.im, l.dice = im, newDice(im.Seed, l.dir)
}

func (l *line) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		l.stats.Eaten += uint64(len(l.queue))
		l.queue = nil
	}
}

func (l *line) snapshot() LineStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.RingDrops = l.in.dropped()
	return s
}

// take runs until the port is closed.
func (l *line) take() {
	for l.in.receive(l.accept) == nil {
		select {
		case l.wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

// accept decides what happens to a frame and queues it.
func (l *line) accept(p packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Frames++
	l.stats.Bytes += uint64(p.length)
	f := l.dice.roll(&l.im, p.length)
	switch {
	case l.cut:
		l.stats.Eaten++
	case p.length > len(p.data):
		l.stats.Oversize++
	case f.lost:
		l.stats.Lost++
	default:
		l.schedule(p, f)
	}
}

// schedule queues one or two copies of a frame for the time it arrives.
func (l *line) schedule(p packet, f fate) {
	now := time.Now()
	sent, ok := l.transmit(now, p.length)
	if !ok {
		l.stats.QueueDrops++
		return
	}
	due := sent.Add(f.delay)
	if f.reordered {
		l.stats.Reordered++
	} else {
		if due.Before(l.last) {
			due = l.last
		}
		l.last = due
	}
	b := l.copyOf(p, f)
	l.push(due, b)
	if f.duplicated {
		l.stats.Duplicated++
		l.push(due, append(l.buffer(), b...))
	}
}

// transmit returns when the last bit of a frame is on the line, or false if
// too much waits already.
func (l *line) transmit(now time.Time, length int) (time.Time, bool) {
	if l.im.Rate <= 0 {
		return now, true
	}
	if l.free.Before(now) {
		l.free = now
	}
	backlog := int64(l.free.Sub(now).Seconds() * float64(l.im.Rate) / 8)
	if backlog+int64(length) > l.im.queueBytes() {
		return now, false
	}
	l.free = l.free.Add(time.Duration(float64(length*8) / float64(l.im.Rate) * float64(time.Second)))
	return l.free, true
}

// copyOf makes the frame as it is on the wire: whole, and damaged if it shall
// be. The receiver is told nothing of its checksums.
func (l *line) copyOf(p packet, f fate) []byte {
	b := append(append(l.buffer(), p.vnet...), p.data...)
	vnet, frame := b[:vnetLen], b[vnetLen:]
	if isSuper(vnet) {
		l.stats.Unchanged++ // the kernel cuts it, and sums the pieces
		return b
	}
	finish(vnet, frame)
	if f.corrupt >= 0 && binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		l.stats.Corrupted++
		frame[f.corrupt/8] ^= 0x80 >> (f.corrupt % 8)
	}
	return b
}

func (l *line) push(due time.Time, b []byte) {
	l.seq++
	heap.Push(&l.queue, parcel{due: due, seq: l.seq, frame: b})
}

func (l *line) buffer() []byte {
	if n := len(l.leftover); n > 0 {
		b := l.leftover[n-1]
		l.leftover = l.leftover[:n-1]
		return b[:0]
	}
	return make([]byte, 0, 2048)
}

// deliver sends frames when they are due, until stop is closed.
func (l *line) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch [][]byte
	for {
		var wait time.Duration
		batch, wait = l.due(batch)
		if len(batch) > 0 {
			l.sendAll(batch)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.stop:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// due takes the frames whose time has come, at most 64 so that the lock is
// soon free again, and returns how long the next one has to wait. It gets the
// last batch back.
func (l *line) due(batch [][]byte) ([][]byte, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leftover = append(l.leftover, batch...)
	batch = batch[:0]
	now := time.Now()
	for len(l.queue) > 0 && len(batch) < 64 {
		if wait := l.queue[0].due.Sub(now); wait > 0 {
			return batch, wait
		}
		batch = append(batch, heap.Pop(&l.queue).(parcel).frame)
	}
	return batch, time.Hour
}

func (l *line) sendAll(batch [][]byte) {
	var failed uint64
	for _, b := range batch {
		if l.out.send(b) != nil {
			failed++
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Delivered += uint64(len(batch)) - failed
	l.stats.SendErrors += failed
}

// parcel is a frame on its way. Frames due at one time keep their order.
type parcel struct {
	due   time.Time
	seq   uint64
	frame []byte // after its virtio_net_hdr
}

// queue is a heap of parcels, the next one first.
type queue []parcel

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].seq < q[j].seq
}

func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *queue) Push(x any) { *q = append(*q, x.(parcel)) }

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	n := len(old) - 1
	p := old[n]
	old[n] = parcel{}
	*q = old[:n]
	return p
}
