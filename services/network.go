package services

import (
	"net/netip"
	"syscall"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// ErrWouldBlock is returned by TryRead, TryWrite and TryAccept when there is
// nothing to do now; the callback set with Notify tells when to try again.
const ErrWouldBlock = syscall.EAGAIN

// Conn is one TCP connection that never blocks its caller. Its methods are
// called by one goroutine at a time (the Loop that owns it); State, Info and
// the addresses by any. Whoever accepted or dialled it must end it with Close
// or Abort, exactly once is enough and more do no harm.
type Conn interface {
	// ID is unique in this process.
	ID() uint64
	LocalAddr() netip.AddrPort
	RemoteAddr() netip.AddrPort

	// Notify sets f to be called whenever the connection may have become
	// readable, writable, established or dead. f is called from any
	// goroutine, possibly with the stack's locks held: it may only queue. It
	// is called once at once if something is ready already. A nil f ends the
	// calls, as Close and Abort do.
	Notify(f func())

	// Established reports nil once a dialled connection may be used,
	// ErrWouldBlock while the handshake goes on, and else why it failed. An
	// accepted connection is established from the start. Of a connection that
	// has died since, by reset or timeout, it reports the error: that shows
	// the death without reading.
	Established() error
	// TryRead reads what has arrived, at most len(p) bytes. It returns io.EOF
	// when the peer has sent FIN and everything was read.
	TryRead(p []byte) (int, error)
	// TryWrite queues as much of p as the send buffer takes: a count below
	// len(p) comes with ErrWouldBlock.
	TryWrite(p []byte) (int, error)
	// CloseWrite sends FIN behind everything written. Reading goes on.
	CloseWrite() error
	// Close lets go of the connection: FIN if CloseWrite was not called, and
	// the stack finishes the protocol by itself. Unread data turns it into a
	// reset, so read to the end first.
	Close() error
	// Abort ends the connection with RST at once.
	Abort()

	// State is the RFC 9293 state, for instance "FIN-WAIT-2".
	State() string
	// FinAcked reports whether our FIN was sent and acknowledged.
	FinAcked() bool
	// Info is a snapshot in the manner of tcp_info.
	Info() Info
	// Life is the connection's walk through the states so far, also after
	// Close or Abort.
	Life() Life
	// Probe sends a keepalive segment now and tells done, once and from any
	// goroutine, what came of it: within three seconds at the latest. It ends
	// no connection.
	Probe(done func(tcpinfo.Probe))
}

// Life is a connection's walk through the RFC 9293 states.
type Life = tcpinfo.Life

// Info is a snapshot of a live connection in the manner of tcp_info.
type Info = tcpinfo.Info

// Listener accepts connections without blocking.
type Listener interface {
	Addr() netip.AddrPort
	// Notify sets f to be called when a connection may be waiting; same rules as Conn.Notify.
	Notify(f func())
	// TryAccept returns ErrWouldBlock when no connection is waiting.
	TryAccept() (Conn, error)
	// SetPolicy makes new connections go by another policy.
	SetPolicy(name string)
	// Close resets connections that nobody accepted; drain the queue first.
	Close() error
}

// Network makes listeners and connections under a named policy.
type Network interface {
	Listen(addr netip.AddrPort, policy string) (Listener, error)
	// Dial starts a handshake; Conn.Established tells how it went.
	Dial(remote netip.AddrPort, policy string) (Conn, error)
	// Refuse makes new SYNs to addr be answered as how says ("rst" or
	// "silence") while handshakes under way may finish; the listener stays
	// open until the caller closes it. The refusal outlasts it; the next
	// Listen to addr ends that.
	Refuse(addr netip.AddrPort, how string)
	// Arriving reports whether handshakes with listeners are under way.
	Arriving() bool
	// Admit ends Refuse.
	Admit(addr netip.AddrPort)
}
