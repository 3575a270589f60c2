package stack

import (
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack/flow"
)

// Unanswered is what a peer that timed out has left without an answer.
type Unanswered string

// The things that wait for an answer.
const (
	UnansweredSYN    Unanswered = "our SYN was never answered"
	UnansweredProbes Unanswered = "the idle peer did not answer keepalive probes"
	UnansweredData   Unanswered = "the peer did not acknowledge what was sent within user_timeout"
	UnansweredRetry  Unanswered = "the peer did not acknowledge what was sent max_retries times again"
	UnansweredOther  Unanswered = "the peer no longer answers"
)

// TimeoutError is the death of a connection whose peer no longer answers. It
// wraps syscall.ETIMEDOUT.
type TimeoutError struct {
	What Unanswered
	Last error // what the network said last of the peer, such as EHOSTUNREACH, or nil
}

// Error is a sentence for the operator.
func (e *TimeoutError) Error() string {
	text := string(e.What) + ": " + syscall.ETIMEDOUT.Error()
	if e.Last != nil {
		text += " (the network said: " + e.Last.Error() + ")"
	}
	return text
}

// Rule is the key of the policy that ended the connection, or "" if it can't
// be told.
func (e *TimeoutError) Rule() tcpinfo.Rule {
	switch e.What {
	case UnansweredSYN:
		return tcpinfo.SynRetries
	case UnansweredProbes:
		return tcpinfo.Keepalive
	case UnansweredData:
		return tcpinfo.UserTimeout
	case UnansweredRetry:
		return tcpinfo.MaxRetries
	}
	return ""
}

// LimitError is the death of a connection that stayed in a state for longer
// than its policy allows. It wraps syscall.ETIMEDOUT.
type LimitError struct {
	Limit tcpinfo.Rule // the key of the policy
	State string       // RFC 9293 state it was in
}

// Error is a sentence for the operator.
func (e *LimitError) Error() string {
	return "it was in " + e.State + " without progress for as long as " + string(e.Limit) + " allows: " + syscall.ETIMEDOUT.Error()
}

// Unwrap is what errors.Is sees.
func (e *LimitError) Unwrap() error { return syscall.ETIMEDOUT }

// Rule is the key of the policy that ended the connection.
func (e *LimitError) Rule() tcpinfo.Rule { return e.Limit }

// Timeout implements net.Error's method.
func (e *LimitError) Timeout() bool { return true }

var (
	_ tcpinfo.Ruled = (*TimeoutError)(nil)
	_ tcpinfo.Ruled = (*LimitError)(nil)
)

// Unwrap is what errors.Is sees.
func (e *TimeoutError) Unwrap() []error {
	if e.Last == nil {
		return []error{syscall.ETIMEDOUT}
	}
	return []error{syscall.ETIMEDOUT, e.Last}
}

// Timeout implements net.Error's method.
func (e *TimeoutError) Timeout() bool { return true }

// failure translates an error of a transfer. A dead connection tells every
// caller why it died, where gVisor tells the first and says EOF to the next.
func (c *Conn) failure(err tcpip.Error) error {
	if _, again := err.(*tcpip.ErrWouldBlock); again {
		return syscall.EAGAIN
	}
	if tcp.EndpointState(c.ep.State()) == tcp.StateError {
		return c.death(err)
	}
	return toError(err)
}

// death is why the connection is in gVisor's error state; err is what gVisor
// has just said, or nil.
func (c *Conn) death(err tcpip.Error) error {
	if c.fate != nil {
		return c.fate
	}
	switch err.(type) {
	case nil, *tcpip.ErrClosedForReceive, *tcpip.ErrClosedForSend, *tcpip.ErrNotConnected:
		err = c.ep.LastError()
	}
	if c.fate = c.limit(); c.fate == nil {
		c.fate = c.cause(err)
	}
	return c.fate
}

// hintError is a soft error as an errno, or nil.
func hintError(h tcpinfo.Hint) error {
	switch h {
	case tcpinfo.NetworkUnreachable:
		return syscall.ENETUNREACH
	case tcpinfo.HostUnreachable:
		return syscall.EHOSTUNREACH
	}
	return nil
}

// limit is the bound of a state that ended the connection, or nil.
func (c *Conn) limit() error {
	life := c.Life()
	switch {
	case life.EndedBy == "":
		return nil
	case life.EndedBy == tcpinfo.SynRetries:
		return &TimeoutError{What: UnansweredSYN, Last: hintError(life.Hint)}
	}
	state := ""
	for _, step := range life.Steps {
		if step.State != flow.Closed.String() {
			state = step.State
		}
	}
	return &LimitError{Limit: life.EndedBy, State: state}
}

// cause explains gVisor's error. In the place of a timeout it gives the last
// ICMP error, of the box's own too when a neighbour no longer answers; but that
// ends only a handshake by itself (RFC 1122, 4.2.3.9: "it MUST NOT abort the
// connection"), so an established connection has timed out.
func (c *Conn) cause(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return syscall.ECONNABORTED
	case *tcpip.ErrTimeout:
		return &TimeoutError{What: c.unanswered()}
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return toError(err)
	}
	what := c.unanswered()
	if what == UnansweredSYN {
		return toError(err)
	}
	return &TimeoutError{What: what, Last: toError(err)}
}

// unanswered tells what a connection died of that gVisor timed out. There are
// three places in gVisor that do: the handshake, the keepalive timer, which
// runs only with nothing outstanding, and the retransmission timer. In the
// last one it was max_retries if the oldest segment was sent again that often,
// which the flow has seen.
func (c *Conn) unanswered() Unanswered {
	ep := c.ep
	var t tcpip.TCPInfoOption
	var limit tcpip.TCPUserTimeoutOption
	if ep.GetSockOpt(&t) != nil || ep.GetSockOpt(&limit) != nil {
		return UnansweredOther
	}
	switch {
	case t.SndCwnd == 0: // there was no sender yet
		return UnansweredSYN
	case t.CcState == tcpip.RTORecovery: // from the first expiry until all is acknowledged
		return c.unacknowledged(limit)
	case !ep.SocketOptions().GetKeepAlive():
		return c.unacknowledged(limit)
	case limit > 0 && limit <= tcpip.TCPUserTimeoutOption(t.RTO):
		// So short a user timeout can end it at the first expiry, which leaves no trace.
		return UnansweredOther
	}
	return UnansweredProbes
}

// unacknowledged tells which of the two bounds of retransmission it was.
func (c *Conn) unacknowledged(userTimeout tcpip.TCPUserTimeoutOption) Unanswered {
	most := c.policy.Retransmit.MaxRetries
	if userTimeout <= 0 || most > 0 && c.Life().Repeats >= most {
		return UnansweredRetry
	}
	return UnansweredData
}
