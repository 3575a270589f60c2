package tcpinfo

import (
	"net/netip"
	"time"
)

// Carrier names what moves the bytes of a proxied connection.
type Carrier string

// The carriers.
const (
	Relay  Carrier = "relay"  // two connections end here, a service moves the bytes
	Splice Carrier = "splice" // both handshakes were the stack's, the flow table translates segments since
	Direct Carrier = "direct" // the flow table has translated from the first SYN on
)

// More rules: those that end a carried connection, where a relayed one has a
// service that does.
const (
	IdleTimeout    Rule = "idle_timeout"    // no byte either way for that long
	HalfClose      Rule = "half_close"      // one side finished, the other was silent
	ConnectTimeout Rule = "connect_timeout" // no backend answered
	Drained        Rule = "drained"         // quiet while it was to be drained
	DrainDeadline  Rule = "drain_deadline"  // busy until the deadline of a drain
	Killed         Rule = "killed"          // the operator's word
	AddressLost    Rule = "address_lost"    // an address of ours that it was on went away
	Stopped        Rule = "stopped"         // its service was closed
	Refused        Rule = "refused"         // every backend refused it
	TableFull      Rule = "table_full"      // idle for longest when there was no room for another
)

// CarriedRef finds a carried connection again, as long as it lives.
type CarriedRef struct {
	ID    uint64
	Shard uint32
	Slot  uint32
}

// CarriedView is what a drain needs to know of a carried connection.
type CarriedView struct {
	Ref        CarriedRef
	Carrier    Carrier // Splice or Direct
	Client     netip.AddrPort
	Backend    netip.AddrPort
	Connecting bool          // the backend has not answered yet
	Moved      time.Duration // since a byte last moved
	Quiet      bool          // nothing is under way: each byte that was sent is acknowledged
	HalfClosed bool          // one peer has finished, the other has not
	Finished   bool          // both have finished by themselves, an acknowledgement is awaited
	Answered   bool          // what moved last went to the client
	Parted     bool          // the table ends it: both peers get our FIN, nothing is passed on
}

// Leg is one side of a carried connection.
type Leg struct {
	Local, Remote netip.AddrPort
	Info          Info
	Life          Life
	Sent          int64 // bytes of data that the peer has acknowledged
	EOF           bool  // its FIN has come
	FIN           bool  // it was sent ours, or the other side's
	Reset         bool  // it was sent a RST
	Died          bool  // it sent a RST, or a rule gave it up
	Rule          Rule  // that gave it up
}

// Carried is a carried connection, alive or as it ended.
type Carried struct {
	Ref     CarriedRef
	Carrier Carrier
	View    CarriedView
	Policy  string
	Opened  time.Time      // the client's first SYN
	Age     time.Duration  // since then; of one that has ended, how long it lasted
	Connect time.Duration  // until the backend was connected; 0 before
	Retries int            // attempts at backends that failed
	Last    netip.AddrPort // the backend of the last of them, if none was connected and it is known
	Client  Leg
	Backend Leg
	First   Who     // Peer tells to look at FirstOf; Us is the table; Nobody has ended it
	FirstBy Rule    // the rule by which the table has sent its FIN or RST; also if First is Peer, whose FIN went before
	FirstOf LegName // whose FIN or RST went first, if Peer
	ByRST   bool    // the first word was a RST
}

// LegName is a side.
type LegName string

// The sides.
const (
	ClientLeg  LegName = "client"
	BackendLeg LegName = "backend"
)

// CarriedEnd says how a carried connection is to end.
type CarriedEnd struct {
	// How: "fin" sends FIN to both peers as soon as nothing is under way, and
	// keeps windows closed until then; "turn" waits besides for the moment between
	// an answer and the next request; "rst" resets both at once. One that both
	// peers have finished by themselves gets no FIN more: "fin" only bounds it.
	How string
	Why Rule
	// Patience is how long "fin" and "turn" wait for that moment; then both
	// peers are reset. Grace is how long the peers have to answer our FIN.
	Patience, Grace time.Duration
}
