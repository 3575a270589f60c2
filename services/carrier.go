package services

import (
	"net/netip"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Carrier is a Network that can carry connections segment by segment, without
// their bytes passing through a service: by splice, when a service has made both
// connections, or direct, from the client's SYN on.
type Carrier interface {
	// Own makes the owner of that name known, or another one of the same name.
	Own(name string, o CarrierOwner, s CarrierSettings)
	// Carry says how connections to a listening address are carried from now on:
	// tcpinfo.Relay, Splice or Direct. With Splice and Direct what clients of the
	// listener send is held back until Splice or Unhold.
	Carry(addr netip.AddrPort, owner string, by tcpinfo.Carrier)
	// DialHeld is Dial, and what the peer sends is held back until Splice or Unhold.
	DialHeld(remote netip.AddrPort, policy string) (Conn, error)
	// Splice joins two established connections. After it neither Conn is to be
	// used any more. An error says in a few words why they can't be joined;
	// nothing has changed then.
	Splice(client, backend Conn, owner string) error
	// Unhold delivers what was held back. Connections that end need none.
	Unhold(c Conn)

	// Views calls f for every carried connection of an owner, with locks held: f
	// only notes. List is the same with all that is known, without locks.
	Views(owner string, f func(*tcpinfo.CarriedView))
	List(owner string, f func(*tcpinfo.Carried))
	// Find finds one by the ID of its client's connection.
	Find(owner string, id uint64) (tcpinfo.CarriedRef, bool)
	// End ends one and reports whether it was there. A second call with a
	// sharper word counts: "rst" after "fin", or with less patience or grace.
	End(ref tcpinfo.CarriedRef, how tcpinfo.CarriedEnd) bool
	// ProbeLeg asks one side with a keepalive segment, as Conn.Probe.
	ProbeLeg(ref tcpinfo.CarriedRef, leg tcpinfo.LegName, done func(tcpinfo.Probe))
}

// CarrierOwner is a service whose connections are carried. Its methods are
// called on the path of frames: they must not block.
type CarrierOwner interface {
	// Choose names the backend of a new client, for Direct; after is the one
	// whose attempt failed, or zero for the first attempt, which takes a place under
	// max_conns. ok is false if it cannot be carried: then a first SYN goes the
	// ordinary way to the listener, and a client that waits is refused.
	Choose(client, after netip.AddrPort) (backend netip.AddrPort, ok bool)
	// Tried tells how an attempt went; err is nil if the backend is connected.
	Tried(backend netip.AddrPort, err error)
	// Spared tells that the backend of a first attempt, and the place that Choose has
	// taken, are not needed: the client goes the ordinary way to the listener.
	Spared(backend netip.AddrPort)
	// Ended tells of the end of a connection, without any lock. It is called once for
	// each that Splice has joined or Choose has taken a place for, unless that was
	// Spared.
	Ended(c *tcpinfo.Carried)
}

// CarrierSettings are what a Carrier needs to know of a service.
type CarrierSettings struct {
	Policy         string
	IdleTimeout    time.Duration // 0 or less: none
	ConnectTimeout time.Duration // of an attempt at one backend
	ConnectRetries int           // further attempts
}
