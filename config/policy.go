package config

import "time"

// Policy is one named set of TCP lifecycle rules. In every duration and count
// a negative value means off, as the word `off` in the file does.
type Policy struct {
	Name        string
	Keepalive   Keepalive
	Retransmit  Retransmit
	UserTimeout time.Duration // oldest unacknowledged byte may be this old (RFC 5482)
	HalfClose   time.Duration // one side finished, the other silent for this long
	FinWait2    time.Duration // our FIN acknowledged, the peer's FIN outstanding
	TimeWait    TimeWait
	Congestion  string // "cubic" or "reno"

	DSCP int // of what we send (RFC 2474); 0 is the default
	TTL  int // of what we send, IPv6's hop limit too; 0 is the default, 64

	// Bounds of the states a connection may otherwise stay in for ever, each
	// for as long as nothing is acknowledged or received in it.
	FinWait1   time.Duration // our FIN unacknowledged
	Closing    time.Duration // both FINs crossed, ours unacknowledged
	LastAck    time.Duration // the last FIN, ours, unacknowledged
	CloseWait  time.Duration // the peer has finished, we have not
	ZeroWindow time.Duration // the peer's window stays closed while there is something to send (RFC 9293, 3.8.6.1)
	Linger     time.Duration // SO_LINGER: our FIN must be acknowledged within it; not above 0: no bound
	// AbortiveClose is SO_LINGER with zero seconds: what we end is reset.
	AbortiveClose bool
	Pos           Pos
}

// Keepalive probes an idle peer (RFC 1122 4.2.3.6). A vanished peer is noticed
// after Idle + Interval*Probes.
type Keepalive struct {
	Idle     time.Duration
	Interval time.Duration
	Probes   int
}

// Retransmit bounds how long unanswered segments are repeated (RFC 6298, RFC 1122 4.2.3.5).
type Retransmit struct {
	MinRTO, MaxRTO time.Duration
	MaxRetries     int
	SynRetries     int
	LossDetection  string // "sack" (RFC 6675) or "rack" (RFC 8985)
}

// TimeWait is how long a closed connection's ports are held (RFC 9293, 3.6.1).
type TimeWait struct {
	Duration time.Duration // Off only after the file has acknowledged what that means
	Reuse    string        // "newer-syn" or "never"
	Max      int           // entries held at once; the oldest goes first
}

// Enabled reports whether idle peers are probed.
func (k Keepalive) Enabled() bool { return k.Idle >= 0 }

// Total is the time after which a vanished peer is noticed, or Off.
func (k Keepalive) Total() time.Duration {
	if !k.Enabled() {
		return Off
	}
	return k.Idle + k.Interval*time.Duration(k.Probes)
}

// DefaultPolicy returns the built-in policy "default".
func DefaultPolicy() Policy {
	p := Policy{
		Name:       defaultName,
		Keepalive:  defaultKeepalive(),
		Retransmit: Retransmit{MinRTO: 200 * time.Millisecond, MaxRTO: 60 * time.Second, MaxRetries: 8, SynRetries: 4, LossDetection: "rack"},
		HalfClose:  5 * time.Minute,
		FinWait2:   60 * time.Second,
		TimeWait:   TimeWait{Duration: defaultTimeWait, Reuse: "newer-syn", Max: 262144},
		Congestion: "cubic",
		TTL:        64,
		FinWait1:   2 * time.Minute,
		Closing:    2 * time.Minute,
		LastAck:    2 * time.Minute,
		CloseWait:  10 * time.Minute,
		ZeroWindow: 10 * time.Minute,
		Linger:     Off,
	}
	p.UserTimeout = p.Keepalive.Total()
	return p
}

func defaultKeepalive() Keepalive {
	return Keepalive{Idle: 60 * time.Second, Interval: 5 * time.Second, Probes: 3}
}

const (
	defaultName = "default"
	// defaultTimeWait is Linux's TCP_TIMEWAIT_LEN; twice RFC 9293's MSL of two
	// minutes would be four times as long, and is kept by no one.
	defaultTimeWait = 60 * time.Second
)
