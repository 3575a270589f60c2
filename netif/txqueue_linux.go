package netif

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/netif/frame"
)

// txEager bytes are sent without waiting for more: a peer with so much to do
// had better begin.
const txEager = 32 << 10

// txQueue collects packets until whoever makes them has nothing more to do:
// its goroutine is woken by the first one, but runs when the others have run.
// A receiver that is woken once for many frames handles them at once; woken
// for each, it takes turns with us on the core that it was woken on. Measured
// with 64 connections of requests and answers: see docs/performance.md.
type txQueue struct {
	mu      sync.Mutex // guards open
	open    *batch     // being filled
	sending sync.Mutex // guards what follows; taken before mu. Batches go out in the order they were filled
	other   *batch     // being sent, or empty
	fd      int        // the socket to send by; -1 when there is none: closed, or between two cards
	paused  bool       // what comes is dropped
	wake    chan struct{}
	closed  atomic.Bool
}

func newTxQueue(e *Endpoint) *txQueue {
	return &txQueue{open: newBatch(e), other: newBatch(e), fd: -1, wake: make(chan struct{}, 1)}
}

// run sends what was collected, until close.
func (q *txQueue) run() {
	for !q.closed.Load() {
		<-q.wake
		q.flush()
	}
}

// sendBy sends what was collected, and the rest by another socket, or by none.
func (q *txQueue) sendBy(fd int) error {
	q.sending.Lock()
	defer q.sending.Unlock()
	q.flushLocked()
	old := q.fd
	if q.fd = fd; old < 0 {
		return nil
	}
	return unix.Close(old)
}

// close ends run. What was collected and what comes later goes out at once.
func (q *txQueue) close() {
	q.closed.Store(true)
	q.kick()
	q.flush()
}

func (q *txQueue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// flush sends what has been collected until now.
func (q *txQueue) flush() {
	q.sending.Lock()
	defer q.sending.Unlock()
	q.flushLocked()
}

func (q *txQueue) flushLocked() {
	q.mu.Lock()
	q.open, q.other = q.other, q.open
	q.mu.Unlock()
	fd := q.fd
	if q.paused {
		fd = -1
	}
	q.other.flush(fd)
}

// pause sends what was collected and drops what comes, until it is called with
// false.
func (q *txQueue) pause(on bool) {
	q.sending.Lock()
	defer q.sending.Unlock()
	q.flushLocked()
	q.paused = on
}

// add takes a packet, and sends if there is enough to send. It reports whether
// the packet was sent.
func (q *txQueue) add(h frame.Header, pkt *gstack.PacketBuffer) (sent bool) {
	q.mu.Lock()
	for q.open.n == txBatch { // others may fill it again before we have the lock
		q.mu.Unlock()
		q.flush()
		q.mu.Lock()
	}
	q.open.add(h, pkt)
	enough := q.open.n == txBatch || q.open.bytes >= txEager || q.closed.Load()
	q.mu.Unlock()
	if enough {
		q.flush()
	}
	return enough
}
