package tcpinfo

import "time"

// Rule is what ended a connection, or will when its timer fires. The names are
// those of the keys in a policy.
type Rule string

// The rules.
const (
	Keepalive   Rule = "keepalive"    // an idle peer did not answer the probes
	UserTimeout Rule = "user_timeout" // the oldest byte stayed unacknowledged for that long
	MaxRetries  Rule = "max_retries"  // a segment was repeated that often
	SynRetries  Rule = "syn_retries"  // the handshake was never answered
	FinWait1    Rule = "fin_wait1"    // our FIN stayed unacknowledged
	FinWait2    Rule = "fin_wait2"    // the peer's FIN never came
	Closing     Rule = "closing"      // both FINs crossed, ours stayed unacknowledged
	LastAck     Rule = "last_ack"     // the last FIN, ours, stayed unacknowledged
	CloseWait   Rule = "close_wait"   // the peer has finished, we have not, and nothing moved
	ZeroWindow  Rule = "zero_window"  // the peer's window stayed closed
	TimeWait    Rule = "time_wait"    // not an end, only a timer
	Retransmit  Rule = "retransmit"   // only a timer: the next repetition
)

// Ruled is an error that knows which rule of the policy ended a connection.
type Ruled interface {
	error
	Rule() Rule
}

// Timer is one that runs on a live connection.
type Timer struct {
	Name Rule          `json:"name"`
	Left time.Duration `json:"left_ns"` // until it fires; 0 if it is due
	Try  int           `json:"try"`     // how often it has fired in a row
}

// Step is one state on a connection's way.
type Step struct {
	State string        `json:"state"` // RFC 9293 state
	After time.Duration `json:"after_ns"`
}

// Who is an end of a connection, as seen from here.
type Who string

// The ends.
const (
	Nobody Who = ""
	Us     Who = "us"
	Peer   Who = "peer"
)

// Life is a connection's walk through the states, as its segments on the wire
// tell. The zero Life is that of a connection nobody watched.
type Life struct {
	Began        time.Time     `json:"began"` // the first SYN
	Dialled      bool          `json:"dialled"`
	Steps        []Step        `json:"steps"`              // oldest first; a state entered twice stands once
	FinFirst     Who           `json:"fin_first"`          // whose FIN went first
	FinSent      bool          `json:"fin_sent"`           // ours
	FinAcked     bool          `json:"fin_acked"`          // ours, by the peer
	FinAckedIn   time.Duration `json:"fin_acked_in_ns"`    // from our first FIN to its acknowledgement
	FinRetrans   int           `json:"fin_retrans"`        // our FIN, sent again
	PeerFin      bool          `json:"peer_fin"`           // received, and acknowledged by us
	PeerFinAgain int           `json:"peer_fin_again"`     // the peer's FIN, received again and acknowledged again
	SynRetrans   int           `json:"syn_retrans"`        // our SYN or SYN-ACK, sent again
	RstSent      bool          `json:"rst_sent"`           // by us
	RstReceived  bool          `json:"rst_received"`       // within the window
	Unacked      uint32        `json:"unacked_bytes"`      // sent and not acknowledged, FIN not counted
	Repeats      int           `json:"repeats"`            // the oldest unacknowledged segment, sent again
	Guarded      int           `json:"guarded"`            // segments that were refused before TCP saw them
	ZeroWindow   time.Duration `json:"zero_window_ns"`     // the peer's window is closed since; 0 is open
	Options      Options       `json:"options"`            // agreed in the handshake
	Hint         Hint          `json:"hint,omitempty"`     // what the network said last of the peer, since it acknowledged anything
	EndedBy      Rule          `json:"ended_by,omitempty"` // the limit that ended it, if it was one of the table's
	TimeWaitLeft time.Duration `json:"time_wait_left_ns"`  // while it is in TIME-WAIT
}

// Hint is a soft error: a word of the network about the peer, by an ICMP error
// that quotes one of our segments. It ends nothing by itself (RFC 9293, 3.9.2.2).
type Hint string

// The hints.
const (
	NetworkUnreachable  Hint = "network_unreachable"
	HostUnreachable     Hint = "host_unreachable"
	ProtocolUnreachable Hint = "protocol_unreachable"
	PortUnreachable     Hint = "port_unreachable"
	TimeExceeded        Hint = "time_exceeded"
	ParameterProblem    Hint = "parameter_problem"
)

// Options are what both ends offered in their SYNs.
type Options struct {
	Seen       bool   `json:"seen"`       // both SYNs passed here
	SndMSS     uint16 `json:"snd_mss"`    // the peer's MSS option in bytes; 536 or 1220 without (RFC 9293, 3.7.1)
	RcvMSS     uint16 `json:"rcv_mss"`    // ours
	SndScale   int8   `json:"snd_wscale"` // shift of the peer's windows; -1 without window scaling
	RcvScale   int8   `json:"rcv_wscale"` // shift of ours
	SACK       bool   `json:"sack"`       // RFC 2018
	Timestamps bool   `json:"timestamps"` // RFC 7323
}

// Alive is a peer's answer to a probe.
type Alive string

// The answers.
const (
	Answers    Alive = "alive"       // it acknowledged
	NotReading Alive = "not_reading" // it acknowledged with a closed window: its kernel lives, its application does not read
	WasReset   Alive = "reset"       // it answered with RST: it knows nothing of the connection
	NoAnswer   Alive = "dead"        // it did not answer in time
	NotProbed  Alive = "not_probed"  // there is no connection to probe, or no sequence number is known
)

// Probe is the result of a keepalive segment that was asked for.
type Probe struct {
	Alive  Alive         `json:"alive"`
	RTT    time.Duration `json:"rtt_ns"` // of an answer
	Window uint32        `json:"window"` // what the peer offers, in bytes
	Sent   int           `json:"sent"`   // segments
}
