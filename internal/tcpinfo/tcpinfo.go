// Package tcpinfo holds the snapshot of a live TCP connection that the stack
// fills and the services show. It is a leaf: plain data, no goroutine.
package tcpinfo

import "time"

// Info is what is known of a live connection; names follow Linux's struct tcp_info.
type Info struct {
	State       string        `json:"state"` // RFC 9293 state, for instance "FIN-WAIT-2"
	RTT         time.Duration `json:"rtt_ns"`
	RTTVar      time.Duration `json:"rttvar_ns"`
	RTO         time.Duration `json:"rto_ns"`
	SndCwnd     uint32        `json:"snd_cwnd"`          // segments
	SndSsthresh uint32        `json:"snd_ssthresh"`      // segments
	SndMSS      uint32        `json:"snd_mss,omitempty"` // bytes; 0 is unknown: gVisor does not tell what was agreed
	SegsIn      uint64        `json:"segs_in"`
	SegsOut     uint64        `json:"segs_out"`
	Retrans     uint64        `json:"retrans"`    // segments sent again
	RcvQueue    int           `json:"rcv_queue"`  // bytes received and not yet read
	SACK        bool          `json:"sack"`       // options agreed in the handshake
	Timestamps  bool          `json:"timestamps"` // RFC 7323
	CaState     string        `json:"ca_state"`   // "open", "recovery" or "loss"
	Unacked     uint32        `json:"unacked"`    // bytes sent and not acknowledged
	SndWnd      uint32        `json:"snd_wnd"`    // bytes the peer offers
	RcvWnd      uint32        `json:"rcv_wnd"`    // bytes we offer
	Backoff     int           `json:"backoff"`    // expiries of the retransmission timer in a row
	Timers      []Timer       `json:"timers"`     // that run, the next to fire first
}
