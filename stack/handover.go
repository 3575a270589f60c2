package stack

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A hand-over writes connections in one process and makes them again in
// another. gVisor can write a whole stack, and takes its cards away for that;
// we write connections alone, so that the stack they are of can go on if nobody
// takes them. While they are written their pointers to the stack lead to a
// stand-in; in the other process they get those of the stack there, as if
// they had been made in it. docs/adr/0003 has the reasons.

// root is what gVisor's state package writes and reads.
type root struct {
	endpoints []*tcp.Endpoint
	queues    []*waiter.Queue
}

// The four methods that gVisor's state package asks of a type.

// StateTypeName implements state.Type.
func (*root) StateTypeName() string { return "lastack.connections" }

// StateFields implements state.Type.
func (*root) StateFields() []string { return []string{"endpoints", "queues"} }

// StateSave implements state.SaverLoader.
func (r *root) StateSave(to state.Sink) {
	to.Save(0, &r.endpoints)
	to.Save(1, &r.queues)
}

// StateLoad implements state.SaverLoader.
func (r *root) StateLoad(_ context.Context, from state.Source) {
	from.Load(0, &r.endpoints)
	from.Load(1, &r.queues)
}

func init() { state.Register((*root)(nil)) } // it finds types by name

// savedConn is what a Conn knows besides its endpoint. One without an ID is a
// connection that services have let go of, and that has yet to end.
type savedConn struct {
	ID            uint64
	Local, Remote netip.AddrPort
	Policy        string
	FinSent       bool
	Unarmed       bool
	State         uint32
}

// savedConns stands before the endpoints.
type savedConns struct {
	Conns      []savedConn
	Neighbours []savedNeighbour
}

// Loaded are the connections that Load has made again.
type Loaded struct {
	Conns   map[uint64]*Conn // by the ID they had
	Orphans int              // others, that services had let go of
	Lost    []netip.AddrPort // the peers of those that could not be made again
	all     []*tcp.Endpoint
	stack   *Stack
}

// links are where an endpoint points to its stack.
type links struct {
	stack, protocol, handshake uintptr
	reserved, flags, dest      uintptr
	finWait2                   uintptr
	queues                     queues
}

func findLinks() (*links, error) {
	var f finder
	ep := reflect.TypeFor[tcp.Endpoint]()
	l := &links{
		stack: f.at(ep, "stack", reflect.Pointer), protocol: f.at(ep, "protocol", reflect.Pointer),
		handshake: f.at(ep, "h", reflect.Pointer), reserved: f.at(ep, "isPortReserved", reflect.Bool),
		flags: f.at(ep, "boundPortFlags", reflect.Struct), dest: f.at(ep, "boundDest", reflect.Struct),
		finWait2: f.at(ep, "finWait2Timer", reflect.Interface), queues: f.queues(ep),
	}
	for name, want := range map[string]reflect.Type{
		"stack": reflect.TypeFor[*gstack.Stack](), "boundPortFlags": reflect.TypeFor[ports.Flags](),
		"boundDest": reflect.TypeFor[tcpip.FullAddress](), "finWait2Timer": reflect.TypeFor[tcpip.Timer](),
	} {
		if field, ok := ep.FieldByName(name); f.err == nil && (!ok || field.Type != want) {
			f.err = fmt.Errorf("stack: internal error: gVisor's %s.%s is no %s", ep, name, want)
		}
	}
	return l, f.err
}

// Pause brings the stack to rest: no segment is handled and no timer fires
// until Resume. The cards' endpoints must be paused before, and nobody may use
// a connection meanwhile.
func (s *Stack) Pause() error {
	if s.clock == nil {
		return errors.New("stack: internal error: its clock cannot be stopped")
	}
	s.s.Pause()
	s.clock.stop()
	return nil
}

// Resume goes on after Pause.
func (s *Stack) Resume() {
	s.clock.start()
	s.s.Resume()
}

// Save writes the given connections, and those that services have let go of.
// The stack must be paused, and goes on with them after Resume. Connections
// whose handshake is under way are not written.
func (s *Stack) Save(w io.Writer, conns []*Conn) error {
	list, r, err := s.gather(conns)
	if err != nil {
		return err
	}
	for _, c := range conns {
		if c.notify != nil {
			c.queue.EventUnregister(&c.entry)
			defer c.queue.EventRegister(&c.entry)
		}
	}
	if err := gob.NewEncoder(w).Encode(savedConns{list, s.neighbours()}); err != nil {
		return fmt.Errorf("write connections: %w", err)
	}
	return s.links.writeAll(w, r)
}

// gather lists what Save writes.
func (s *Stack) gather(conns []*Conn) ([]savedConn, *root, error) {
	var list []savedConn
	r := &root{}
	known := make(map[*tcp.Endpoint]bool)
	for _, c := range conns {
		e, ok := c.ep.(*tcp.Endpoint)
		if !ok || c.closed.Load() || known[e] {
			return nil, nil, fmt.Errorf("stack: internal error: the connection of %s cannot be handed over", c.remote)
		}
		known[e] = true
		list = append(list, savedConn{c.id, c.local, c.remote, c.policy.Name, c.finSent.Load(), c.unarmed, e.State()})
		r.endpoints, r.queues = append(r.endpoints, e), append(r.queues, c.queue)
	}
	for _, from := range [][]gstack.TransportEndpoint{s.s.RegisteredEndpoints(), s.s.CleanupEndpoints()} {
		for _, ep := range from {
			e, ok := ep.(*tcp.Endpoint)
			if !ok || known[e] || !finishing(e.EndpointState()) {
				continue
			}
			known[e] = true
			local, remote := idAddrs(e)
			list = append(list, savedConn{Local: local, Remote: remote, FinSent: true, State: e.State()})
			r.endpoints = append(r.endpoints, e)
		}
	}
	return list, r, nil
}

// finishing reports whether gVisor alone sees a connection to its end in a
// state. In TIME-WAIT the table does.
func finishing(state tcp.EndpointState) bool {
	switch state {
	case tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

func idAddrs(e *tcp.Endpoint) (local, remote netip.AddrPort) {
	return addrPort(tcpip.FullAddress{Addr: e.ID.LocalAddress, Port: e.ID.LocalPort}),
		addrPort(tcpip.FullAddress{Addr: e.ID.RemoteAddress, Port: e.ID.RemotePort})
}

// lead makes an endpoint point to another stack and to no handshake, which
// would lead to its listener. The function returned takes it back.
func (l *links) lead(e *tcp.Endpoint, to *gstack.Stack) (back func()) {
	base := unsafe.Pointer(e)
	own, protocol, h := get[*gstack.Stack](base, l.stack), get[unsafe.Pointer](base, l.protocol), get[unsafe.Pointer](base, l.handshake)
	put(base, l.stack, to)
	put(base, l.protocol, unsafe.Pointer(nil))
	put(base, l.handshake, unsafe.Pointer(nil))
	return func() {
		put(base, l.stack, own)
		put(base, l.protocol, protocol)
		put(base, l.handshake, h)
	}
}

// Load makes the connections that Save has written again, under the policies
// of this stack. Nothing reaches a wire and no segment is taken in before the
// cards' endpoints run; call Loaded.Go then.
func (s *Stack) Load(r *bufio.Reader) (*Loaded, error) {
	var head savedConns
	if err := gob.NewDecoder(r).Decode(&head); err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	s.meet(head.Neighbours)
	list := head.Conns
	from, err := s.links.readAll(r, len(list))
	if err != nil {
		return nil, fmt.Errorf("read connections: %w", err)
	}
	if len(list) != len(from.endpoints) || len(from.queues) > len(list) {
		return nil, fmt.Errorf("read connections: %d are announced and %d are there", len(list), len(from.endpoints))
	}
	protocol, err := s.protocol()
	if err != nil {
		return nil, err
	}
	s.s.SetAllowLiveTCPMigration(true)
	defer s.s.SetAllowLiveTCPMigration(false)
	loaded := &Loaded{Conns: make(map[uint64]*Conn), stack: s}
	for i, e := range from.endpoints {
		v := &list[i]
		if !s.restore(e, v, protocol) {
			loaded.Lost = append(loaded.Lost, v.Remote)
			continue
		}
		loaded.all = append(loaded.all, e)
		if v.ID == 0 {
			loaded.Orphans++
			continue
		}
		loaded.Conns[v.ID] = s.reconn(e, from.queues[i], v)
	}
	return loaded, nil
}

// protocol is gVisor's TCP of this stack, as endpoints point to it.
func (s *Stack) protocol() (unsafe.Pointer, error) {
	var queue waiter.Queue
	ep, err := s.s.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, &queue)
	if err != nil {
		return nil, toError(err)
	}
	defer ep.Close()
	return get[unsafe.Pointer](unsafe.Pointer(ep.(*tcp.Endpoint)), s.links.protocol), nil
}

// restore makes an endpoint that was read one of this stack, and reports
// whether it could.
func (s *Stack) restore(e *tcp.Endpoint, v *savedConn, protocol unsafe.Pointer) bool {
	base := unsafe.Pointer(e)
	put(base, s.links.stack, s.s)
	put(base, s.links.protocol, protocol)
	reserved := get[bool](base, s.links.reserved)
	if reserved {
		s.s.ReserveTuple(ports.Reservation{
			Networks: []tcpip.NetworkProtocolNumber{protocolOf(v.Local.Addr())}, Transport: tcp.ProtocolNumber,
			Addr: e.ID.LocalAddress, Port: e.ID.LocalPort,
			Flags: get[ports.Flags](base, s.links.flags), Dest: get[tcpip.FullAddress](base, s.links.dest),
		})
	}
	e.Restore(s.s)
	if e.State() != v.State {
		return false
	}
	e.LockUser()
	defer e.UnlockUser()
	// gVisor takes the listener's port for each connection's own, and would
	// give it back with the first that ends.
	put(base, s.links.reserved, reserved)
	if e.EndpointState() == tcp.StateFinWait2 && v.ID != 0 {
		// It starts the clock for a connection that nobody holds any more.
		if timer := get[tcpip.Timer](base, s.links.finWait2); timer != nil {
			timer.Stop()
		}
	}
	return true
}

func (s *Stack) reconn(e *tcp.Endpoint, queue *waiter.Queue, v *savedConn) *Conn {
	policy, err := s.policy(v.Policy)
	if err != nil {
		policy, _ = s.policy("default")
	}
	c := &Conn{id: v.ID, s: s, policy: policy, ep: e, queue: queue, local: v.Local, remote: v.Remote, unarmed: v.Unarmed}
	c.finSent.Store(v.FinSent)
	raise(s.nextID, v.ID)
	return c
}

// raise makes v at least n.
func raise(v *atomic.Uint64, n uint64) {
	for {
		old := v.Load()
		if old >= n || v.CompareAndSwap(old, n) {
			return
		}
	}
}

// Go starts the timers of the connections, which gVisor does not hand over:
// what is unacknowledged is sent again, an idle peer is asked. The cards'
// endpoints must run.
func (l *Loaded) Go() {
	for _, e := range l.all {
		so := e.SocketOptions()
		if so.GetKeepAlive() {
			so.SetKeepAlive(true)
		}
		so.SetDelayOption(false) // as it was; gVisor sends what can be sent
		l.stack.fields.rearm(e, l.stack.s.Clock())
	}
}

// rearm starts the retransmission timer if something is unacknowledged and neither
// that one nor the one of the probe before it (RFC 8985, 7.2) runs. It reports
// whether it had to. The window is lent what the oldest segment needs: it may have
// shrunk since that was sent (RFC 9293, 3.8.6, SHLD-16: the sender "SHOULD retransmit
// normally the old unacknowledged data", MAY-7: beyond the window too), and gVisor would
// neither cut the segment nor wait for anything. The peer's next ACK takes that back. A
// closed window stays closed: gVisor probes it.
func (f *fields) rearm(e *tcp.Endpoint, clock tcpip.Clock) bool {
	e.LockUser()
	defer e.UnlockUser()
	snd := get[unsafe.Pointer](unsafe.Pointer(e), f.snd)
	if state := e.EndpointState(); snd == nil || !finishing(state) && state != tcp.StateEstablished && state != tcp.StateCloseWait ||
		get[uint32](snd, f.sndUna) == get[uint32](snd, f.sndNxt) || f.tailProbe.runs(snd) || f.resend.runs(snd) {
		return false
	}
	need := min(get[uint32](snd, f.sndNxt)-get[uint32](snd, f.sndUna), uint32(get[int](snd, f.payload)))
	if window := get[uint32](snd, f.sndWnd); window > 0 && window < need {
		put(snd, f.sndWnd, need)
	}
	f.resend.arm(snd, clock, get[time.Duration](snd, f.rto))
	return true
}
