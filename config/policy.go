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
	Pos         Pos
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
}

// TimeWait is how long a closed connection's ports are held (RFC 9293, 3.6.1).
type TimeWait struct {
	Duration time.Duration
	Reuse    string // "newer-syn" or "never"
	Max      int    // entries held at once; the oldest goes first
}
