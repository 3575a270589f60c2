package stack

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack/flow"
)

// Conn is one TCP connection that never blocks its caller.
//
// One goroutine at a time reads, writes and ends it; State, FinAcked, Info and
// the addresses may be asked by any. Whoever got it from TryAccept or Dial
// ends it with Close or Abort; both may be called again. gVisor finishes the
// protocol after Close by itself.
type Conn struct {
	id     uint64
	s      *Stack
	policy *config.Policy
	ep     tcpip.Endpoint
	queue  *waiter.Queue
	own    waiter.Queue // of a dialled connection; an accepted one brings its own
	entry  waiter.Entry
	notify func()
	// reader and writer are reused, so that a transfer allocates nothing.
	reader  tcpip.SliceWriter
	writer  bytes.Reader
	local   netip.AddrPort
	remote  netip.AddrPort
	finSent atomic.Bool
	closed  atomic.Bool
	fate    error                        // why it died, once somebody asked
	unarmed bool                         // dialled, and the policy waits for the end of the handshake
	life    atomic.Pointer[tcpinfo.Life] // the last that was seen, once it is let go of
}

// ID is unique in this process.
func (c *Conn) ID() uint64 { return c.id }

// LocalAddr is our end.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr is the peer's end.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

const connEvents = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp

// Notify sets f to be called whenever the connection may have become readable,
// writable, established or dead. f runs with gVisor's locks held: it may only
// queue. If something is ready already, it is called at once.
func (c *Conn) Notify(f func()) {
	if c.notify != nil {
		c.queue.EventUnregister(&c.entry)
	}
	c.notify = f
	if f == nil {
		return
	}
	c.entry.Init(c, connEvents)
	c.queue.EventRegister(&c.entry)
	if c.ep.Readiness(connEvents&^waiter.WritableEvents) != 0 {
		f()
	}
}

// NotifyEvent implements waiter.EventListener.
func (c *Conn) NotifyEvent(waiter.EventMask) { c.notify() }

// Established reports nil once the connection may be used, EAGAIN during the
// handshake, and else why it failed.
func (c *Conn) Established() error {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateInitial, tcp.StateBound, tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		return syscall.EAGAIN
	case tcp.StateError:
		return c.death(nil)
	case tcp.StateClose:
		return c.closedBy()
	}
	c.armPolicy()
	return nil
}

// lostSYN reports whether our SYN was repeated and no timestamp tells which one
// was answered.
func (c *Conn) lostSYN() bool {
	life := c.Life()
	return life.SynRetrans > 0 && !life.Options.Timestamps
}

// closedBy tells of a connection that gVisor has closed without an error: it
// does so with a reset in CLOSE-WAIT and beyond.
func (c *Conn) closedBy() error {
	if life := c.Life(); life.RstReceived && !life.FinAcked {
		return syscall.ECONNRESET
	}
	return syscall.ECONNABORTED
}

// armPolicy applies after the handshake of a dialled connection what gVisor
// takes only then: the bounds of retransmission, and keepalive, whose timer it
// starts as the option is set, if there is a connection by then, or with the
// first data, which may never come.
func (c *Conn) armPolicy() {
	if !c.unarmed || c.closed.Load() {
		return
	}
	c.unarmed = false
	c.s.fields.bound(c.ep, c.policy.Retransmit, c.lostSYN())
	if c.policy.Keepalive.Enabled() {
		c.ep.SocketOptions().SetKeepAlive(true)
	}
}

// TryRead reads what has arrived. It returns EAGAIN when nothing has, and
// io.EOF behind the peer's FIN.
func (c *Conn) TryRead(p []byte) (int, error) {
	c.reader = p
	res, err := c.ep.Read(&c.reader, tcpip.ReadOptions{})
	c.reader = nil
	if err != nil {
		return 0, c.failure(err)
	}
	return res.Count, nil
}

// TryWrite queues as much of p as the send buffer takes; fewer bytes than
// len(p) come with EAGAIN.
func (c *Conn) TryWrite(p []byte) (int, error) {
	c.writer.Reset(p)
	n, err := c.ep.Write(&c.writer, tcpip.WriteOptions{})
	c.writer.Reset(nil)
	if err != nil {
		return int(n), c.failure(err)
	}
	if int(n) < len(p) {
		return int(n), syscall.EAGAIN
	}
	return int(n), nil
}

// CloseWrite sends FIN behind everything written; reading goes on.
func (c *Conn) CloseWrite() error {
	if c.finSent.Swap(true) {
		return nil
	}
	return toError(c.ep.Shutdown(tcpip.ShutdownWrite))
}

// Close lets go of the connection. gVisor turns a close with unread data into
// a reset, as Linux does: read to io.EOF first.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.finSent.Store(true)
	c.Notify(nil)
	// gVisor probes in TIME-WAIT too if it is left on, and ends there with an
	// error; RFC 9293, 3.8.4 knows keepalive only between data transfers.
	c.ep.SocketOptions().SetKeepAlive(false)
	c.ep.Close()
	c.release()
	return nil
}

// release lets the flow go on by itself.
func (c *Conn) release() {
	if c.s.flows == nil {
		return
	}
	life := c.Life()
	c.life.Store(&life)
	c.s.flows.Release(c.local, c.remote, c.id)
}

// Abort ends the connection with RST.
func (c *Conn) Abort() {
	if c.closed.Swap(true) {
		return
	}
	c.Notify(nil)
	if tcp.EndpointState(c.ep.State()) == tcp.StateTimeWait {
		// Both sides have finished: a reset would only hurt (RFC 1337).
		c.ep.SocketOptions().SetKeepAlive(false)
		c.ep.Close()
		c.release()
		return
	}
	c.ep.Abort()
	c.release()
}

// State is the RFC 9293 state, for instance "FIN-WAIT-2".
func (c *Conn) State() string {
	name := stateName(tcp.EndpointState(c.ep.State()))
	if name == flow.Closed.String() && c.s.flows != nil {
		// gVisor's endpoint is gone while the flow is in TIME-WAIT.
		if state, ok := c.s.flows.State(c.local, c.remote, c.id); ok && state == flow.TimeWait {
			return state.String()
		}
	}
	return name
}

// FinAcked reports whether our FIN was sent and acknowledged. A connection
// that ended with an error never has it.
func (c *Conn) FinAcked() bool {
	if !c.finSent.Load() {
		return false
	}
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateFinWait2, tcp.StateTimeWait, tcp.StateClose:
		return true
	}
	return false
}

// Info is a snapshot in the manner of tcp_info.
func (c *Conn) Info() tcpinfo.Info {
	info := c.endpointInfo()
	info.State = c.State()
	if c.s.flows != nil {
		info.Backoff = c.Life().Repeats
		if t, ok := c.s.flows.Timer(c.local, c.remote, c.id); ok {
			info.Timers = append(info.Timers, t)
		}
	}
	slices.SortFunc(info.Timers, func(a, b tcpinfo.Timer) int { return cmp.Compare(a.Left, b.Left) })
	return info
}

func (c *Conn) endpointInfo() tcpinfo.Info {
	var t tcpip.TCPInfoOption
	ep := c.ep
	info := tcpinfo.Info{State: stateName(tcp.EndpointState(ep.State()))}
	if err := ep.GetSockOpt(&t); err == nil {
		info.RTT, info.RTTVar, info.RTO = t.RTT, t.RTTVar, t.RTO
		info.SndCwnd, info.SndSsthresh = t.SndCwnd, t.SndSsthresh
	}
	if n, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
		info.RcvQueue = n
	}
	if s, ok := ep.Stats().(*tcp.Stats); ok {
		info.SegsIn, info.SegsOut = s.SegmentsReceived.Value(), s.SegmentsSent.Value()
		info.Retrans = s.SendErrors.Retransmits.Value()
	}
	// Written during the handshake only: to be read once it is over.
	if e, ok := ep.(*tcp.Endpoint); ok && info.State != "SYN-SENT" && info.State != "SYN-RECEIVED" {
		info.SACK, info.Timestamps = e.SACKPermitted, e.SendTSOk
		c.s.fields.fill(e, c.s.s.Clock().NowMonotonic(), &info)
	}
	return info
}

func addrPort(a tcpip.FullAddress) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.Addr.AsSlice()) // gVisor's addresses have 4 or 16 bytes
	return netip.AddrPortFrom(addr.Unmap(), a.Port)
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// Life is the connection's walk through the states, as far as it is known: to
// its end, if the flow is still there.
func (c *Conn) Life() tcpinfo.Life {
	if c.s.flows != nil {
		if life, ok := c.s.flows.Life(c.local, c.remote, c.id); ok {
			return life
		}
	}
	if last := c.life.Load(); last != nil {
		return *last
	}
	return tcpinfo.Life{}
}

// Probe sends a keepalive segment and tells done what came of it, from any
// goroutine and at most some seconds later.
func (c *Conn) Probe(done func(tcpinfo.Probe)) {
	if c.s.flows == nil {
		done(tcpinfo.Probe{Alive: tcpinfo.NotProbed})
		return
	}
	c.s.flows.Probe(c.local, c.remote, c.id, done)
}
