package stack

import "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

// stateName gives the RFC 9293, 3.3.2 name of a gVisor state.
func stateName(s tcp.EndpointState) string {
	switch s {
	case tcp.StateListen:
		return "LISTEN"
	case tcp.StateConnecting, tcp.StateSynSent:
		return "SYN-SENT"
	case tcp.StateSynRecv:
		return "SYN-RECEIVED"
	case tcp.StateEstablished:
		return "ESTABLISHED"
	case tcp.StateFinWait1:
		return "FIN-WAIT-1"
	case tcp.StateFinWait2:
		return "FIN-WAIT-2"
	case tcp.StateCloseWait:
		return "CLOSE-WAIT"
	case tcp.StateClosing:
		return "CLOSING"
	case tcp.StateLastAck:
		return "LAST-ACK"
	case tcp.StateTimeWait:
		return "TIME-WAIT"
	}
	return "CLOSED" // initial, bound, error and close: no connection
}

// finPending reports whether our FIN is sent and not yet acknowledged.
func finPending(s tcp.EndpointState) bool {
	return s == tcp.StateFinWait1 || s == tcp.StateClosing || s == tcp.StateLastAck
}
