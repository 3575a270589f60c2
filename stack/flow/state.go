package flow

// State is a state of RFC 9293, 3.3.2. LISTEN is none of a connection's.
type State uint8

// The states.
const (
	Closed State = iota
	SynSent
	SynReceived
	Established
	FinWait1
	FinWait2
	CloseWait
	Closing
	LastAck
	TimeWait

	states
)

var stateNames = [states]string{
	"CLOSED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2",
	"CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT",
}

// String is the state's name in RFC 9293.
func (s State) String() string { return stateNames[s] }

// synchronized reports whether both ends know each other's sequence numbers.
func (s State) synchronized() bool { return s >= Established }
