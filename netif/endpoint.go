package netif

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/netif/frame"
)

// EndpointOptions configure an Endpoint. The zero value works.
type EndpointOptions struct {
	Queues int          // receive sockets in one fanout group; 0 picks by cores
	Filter frame.Filter // sees every frame; nil passes all
	// Inherited are the packet sockets of a process whose place this one takes,
	// from Sockets there. They are used instead of new ones, whatever Queues
	// says, and are the Endpoint's to close.
	Inherited []*os.File
	Paused    bool // begin as Pause and Mute leave it
	// OnLink is told when the link goes up or down after Open; it must not block. nil
	// is nobody.
	OnLink func(up bool)
	Log    *slog.Logger // nil discards
}

// Endpoint moves the frames of one network card between the kernel's driver
// and its Ports. Link down and up, a new MTU and a card that was removed and
// came back under the same name are survived; each is counted and logged.
//
// Open makes it, Close ends it: Close stops the goroutines, waits for them and
// closes the sockets. It does not touch the card's configuration: see NIC.
type Endpoint struct {
	name   string
	filter frame.Filter
	log    *slog.Logger
	onLink func(up bool)
	count  counters
	mtu    atomic.Uint32
	mac    atomic.Pointer[[6]byte]
	up     atomic.Bool
	paused atomic.Bool
	txq    *txQueue
	ports  atomic.Pointer[map[uint16]*Port]
	pieces pieces
	// verify makes the stack check checksums itself: see deliverFragment.
	verify   atomic.Bool
	verifyMu sync.RWMutex

	mu     sync.Mutex // guards what follows; never held while frames are handled
	index  int
	queues []*rxQueue
	closed bool
	done   chan struct{} // closed by Close: the watcher ends
	wg     sync.WaitGroup
	nqueue int
	heirs  []*os.File // sockets to begin with
}

// Open starts moving frames of the card called name. Until a Port is attached
// to a stack, frames are received, counted and dropped.
func Open(name string, o EndpointOptions) (*Endpoint, error) {
	e := &Endpoint{name: name, filter: o.Filter, log: o.Log, onLink: o.OnLink, nqueue: o.Queues, heirs: o.Inherited, done: make(chan struct{})}
	if e.onLink == nil {
		e.onLink = func(bool) {}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.nqueue == 0 {
		// A small box has more cards than cores: one queue a card is enough there.
		e.nqueue = max(1, min(runtime.NumCPU()/4, 8))
	}
	e.ports.Store(&map[uint16]*Port{0: {e: e}})
	e.txq = newTxQueue(e)
	if o.Paused {
		e.paused.Store(true)
		e.txq.pause(true)
	}
	if err := e.open(); err != nil {
		for _, f := range e.heirs {
			_ = f.Close() // nothing was written to it
		}
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	e.wg.Go(e.txq.run) // Close waits
	return e, nil
}

// open starts the goroutines. The news come first: what happens to the link
// after it was looked up is among them.
func (e *Endpoint) open() error {
	home, err := openNamespace()
	if err != nil {
		return err
	}
	news, err := e.subscribe()
	if err != nil {
		return errors.Join(err, home.Close())
	}
	link, err := netlink.LinkByName(e.name)
	if err == nil {
		err = e.start(link.Attrs())
	}
	if err != nil {
		news.cancel()
		return errors.Join(err, home.Close())
	}
	e.wg.Add(1) // Close waits
	go e.watch(home, news)
	return nil
}

// start opens the sockets of the link and begins to receive.
func (e *Endpoint) start(a *netlink.LinkAttrs) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if len(a.HardwareAddr) != 6 {
		return fmt.Errorf("link has no Ethernet address")
	}
	tx, err := openTx(a.Index)
	if err != nil {
		return err
	}
	var sockets []*socket
	if len(e.heirs) > 0 {
		sockets, err = inherit(e.heirs, a.Index)
	} else {
		sockets, err = openAllRx(a.Index, e.nqueue)
	}
	if err != nil {
		return errors.Join(err, unix.Close(tx))
	}
	e.heirs = nil
	var queues []*rxQueue
	for _, s := range sockets {
		queues = append(queues, newRxQueue(e, s))
	}
	e.learn(a)
	e.index, e.queues = a.Index, queues
	_ = e.txq.sendBy(tx) // the card of the one before is gone
	for _, q := range queues {
		e.wg.Add(1) // Close waits
		go q.run()
	}
	return nil
}

// Pause stops receiving: frames that arrive wait in the sockets, as many as fit.
// When it returns no frame is being handled. It may be called again, as Mute and
// Resume may.
func (e *Endpoint) Pause() {
	e.paused.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, q := range e.queues {
		q.settle()
	}
}

// Mute stops sending, to be called once nobody has anything to send any more: what
// the stack sends all the same is dropped and counted. When it returns what was
// collected has left.
func (e *Endpoint) Mute() { e.txq.pause(true) }

// Resume goes on after Pause and Mute.
func (e *Endpoint) Resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.txq.pause(false)
	if !e.paused.Swap(false) {
		return
	}
	for _, q := range e.queues {
		// The poller tells of arrivals, not of what waits: have it look.
		_ = q.socket.file.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed socket
	}
}

// Sockets are duplicates of the packet sockets in which frames wait, for a
// process that takes this one's place. The caller closes them.
func (e *Endpoint) Sockets() (files []*os.File, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, q := range e.queues {
		f, err := q.socket.duplicate()
		if err != nil {
			for _, f := range files {
				_ = f.Close() // nothing was written to it
			}
			return nil, fmt.Errorf("sockets of %s: %w", e.name, err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("sockets of %s: the card is gone", e.name)
	}
	return files, nil
}

// Name is the kernel's name of the card.
func (e *Endpoint) Name() string { return e.name }

// MAC is the card's address at the moment.
func (e *Endpoint) MAC() net.HardwareAddr {
	mac := e.mac.Load()
	if mac == nil {
		return nil
	}
	return slices.Clone(mac[:])
}

// MTU is the card's, in bytes of a network packet.
func (e *Endpoint) MTU() uint32 { return e.mtu.Load() }

// Up reports whether the card is administratively up and has carrier.
func (e *Endpoint) Up() bool { return e.up.Load() }

// Port is where a stack attaches: vlan 0 is the port of untagged frames, 1 to
// 4094 that of one VLAN. The same number gives the same Port.
func (e *Endpoint) Port(vlan uint16) *Port {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := *e.ports.Load()
	if p, ok := old[vlan]; ok {
		return p
	}
	ports := make(map[uint16]*Port, len(old)+1)
	for id, p := range old {
		ports[id] = p
	}
	ports[vlan] = &Port{e: e, vlan: vlan}
	e.ports.Store(&ports)
	return ports[vlan]
}

// Counters is a snapshot of what happened to this card's frames.
func (e *Endpoint) Counters() Counters {
	e.mu.Lock()
	queues := e.queues
	e.mu.Unlock()
	for _, q := range queues {
		e.count.rxKernelDrops.Add(q.socket.kernelDrops())
	}
	return e.count.snapshot()
}

// Close stops receiving and sending and waits until every goroutine has ended.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	close(e.done)
	e.txq.close()
	err := e.closeSocketsLocked()
	e.mu.Unlock()
	e.wg.Wait()
	return err
}

func (e *Endpoint) closeSocketsLocked() error {
	var errs []error
	for _, q := range e.queues {
		e.count.rxKernelDrops.Add(q.socket.kernelDrops())
		errs = append(errs, q.socket.file.Close())
	}
	e.queues = nil
	return errors.Join(append(errs, e.txq.sendBy(-1))...)
}
