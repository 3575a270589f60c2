package services

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/lastack/lastack/internal/tcpinfo"
)

// Reason is why a connection ended: one for each cause, named as in metrics
// and in the listing of ended connections.
type Reason uint8

// The reasons. Of a proxied connection, client and backend are its two sides;
// a diagnostic service has only a client.
const (
	Live               Reason = iota // it has not ended
	Finished                         // both sides finished with FIN
	ClientReset                      // RST from the client
	BackendReset                     // RST from the backend
	ClientLeft                       // RST from the client before a backend was connected
	ClientTimeout                    // no answer from the client, and no rule of the policy is known to be why
	BackendTimeout                   // no answer from the backend, likewise
	ClientUnreachable                // the network said that the client can't be reached
	BackendUnreachable               // the network said that the backend can't be reached
	ClientError                      // another error on the client's connection
	BackendError                     // another error on the backend's connection
	NoBackend                        // no backend could be connected
	IdleTimeout                      // no byte either way for idle_timeout
	HalfCloseTimeout                 // one side finished, the other silent for half_close
	FinWait2Timeout                  // our FIN acknowledged, the peer's outstanding for fin_wait2
	FinUnacked                       // the peer never acknowledged our FIN
	Drained                          // quiet while its service drained
	DrainDeadline                    // still busy at the drain's deadline
	Stopped                          // its service was closed
	InternalError                    // our own fault
	Killed                           // the operator ended it
	ClientKeepalive                  // an idle side did not answer the probes
	BackendKeepalive                 //
	ClientUserTimeout                // a side left bytes unacknowledged for user_timeout
	BackendUserTimeout               //
	ClientMaxRetries                 // a side left a segment unacknowledged that was sent max_retries times again
	BackendMaxRetries                //
	ClientSynRetries                 // a side never answered our SYN, sent syn_retries times again
	BackendSynRetries                //
	ClientFinWait1                   // a side left our FIN unacknowledged for fin_wait1
	BackendFinWait1                  //
	ClientFinWait2                   // a side never sent its FIN, for fin_wait2
	BackendFinWait2                  //
	ClientClosing                    // a side left our FIN, which crossed its own, unacknowledged for closing
	BackendClosing                   //
	ClientLastAck                    // a side left the last FIN, ours, unacknowledged for last_ack
	BackendLastAck                   //
	ClientCloseWait                  // a side had finished, and nothing moved for close_wait
	BackendCloseWait                 //
	ClientZeroWindow                 // a side kept its window closed for zero_window
	BackendZeroWindow                //
	ClientHeartbeat                  // a side's application did not answer the service's heartbeat
	BackendHeartbeat                 //
	ClientLost                       // a side's connection could not be made again in the process that took over
	BackendLost                      //
	AddressLost                      // an address of ours that it was on went away
	TableFull                        // idle for longest when there was no room for another carried connection

	reasons
)

var reasonNames = [reasons]string{
	"live", "finished", "client_reset", "backend_reset", "client_left", "client_timeout", "backend_timeout",
	"client_unreachable", "backend_unreachable", "client_error", "backend_error", "no_backend",
	"idle_timeout", "half_close_timeout", "fin_wait2_timeout", "fin_unacked", "drained", "drain_deadline",
	"stopped", "internal_error", "killed",
	"client_keepalive", "backend_keepalive", "client_user_timeout", "backend_user_timeout",
	"client_max_retries", "backend_max_retries", "client_syn_retries", "backend_syn_retries",
	"client_fin_wait1", "backend_fin_wait1", "client_fin_wait2", "backend_fin_wait2",
	"client_closing", "backend_closing", "client_last_ack", "backend_last_ack",
	"client_close_wait", "backend_close_wait", "client_zero_window", "backend_zero_window",
	"client_heartbeat", "backend_heartbeat", "client_lost", "backend_lost", "address_lost", "table_full",
}

// ruled are the reasons of the rules of a policy.
var ruled = map[tcpinfo.Rule]reasonsOf{
	tcpinfo.Keepalive:   {ClientKeepalive, BackendKeepalive},
	tcpinfo.UserTimeout: {ClientUserTimeout, BackendUserTimeout},
	tcpinfo.MaxRetries:  {ClientMaxRetries, BackendMaxRetries},
	tcpinfo.SynRetries:  {ClientSynRetries, BackendSynRetries},
	tcpinfo.FinWait1:    {ClientFinWait1, BackendFinWait1},
	tcpinfo.FinWait2:    {ClientFinWait2, BackendFinWait2},
	tcpinfo.Closing:     {ClientClosing, BackendClosing},
	tcpinfo.LastAck:     {ClientLastAck, BackendLastAck},
	tcpinfo.CloseWait:   {ClientCloseWait, BackendCloseWait},
	tcpinfo.ZeroWindow:  {ClientZeroWindow, BackendZeroWindow},
}

// String is the reason's name in listings and metrics.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// MarshalText makes listings in JSON show the name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the name.
func (r *Reason) UnmarshalText(text []byte) error {
	for i, name := range reasonNames {
		if name == string(text) {
			*r = Reason(i)
			return nil
		}
	}
	return fmt.Errorf("unknown reason %q", text)
}

// How is the manner in which a side ended.
type How string

// The manners.
const (
	ByFIN     How = "fin"
	ByRST     How = "rst"
	ByTimeout How = "timeout"
	ByError   How = "error"
)

// First is the witness of an end: who ended the connection first, and how.
type First struct {
	Who string `json:"who"` // "client", "backend" or "us"; "" while nobody has
	How How    `json:"how"`
}

// reasonsOf are the two sides' names of one cause.
type reasonsOf struct{ client, backend Reason }

// causeOf tells what an error of a connection means.
func causeOf(err error) (reasonsOf, How) {
	var r tcpinfo.Ruled
	if errors.As(err, &r) {
		if both, ok := ruled[r.Rule()]; ok {
			return both, ByTimeout
		}
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return reasonsOf{ClientReset, BackendReset}, ByRST
	case errors.Is(err, syscall.ETIMEDOUT):
		return reasonsOf{ClientTimeout, BackendTimeout}, ByTimeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return reasonsOf{ClientUnreachable, BackendUnreachable}, ByError
	}
	return reasonsOf{ClientError, BackendError}, ByError
}
