package lifecycle

// State is a box of the chart.
type State struct {
	Name  string
	X, Y  int    // of its middle
	Limit string // the key of a policy that bounds it, with its default; "" if none does
}

// Arrow is a way from one state to another.
type Arrow struct {
	From, To string
	Label    string // what happens; what we send stands behind a slash
	DX, DY   int    // of the label, from the arrow's middle
}

// States are those of RFC 9293, 3.3.2.
func States() []State {
	return []State{
		{"CLOSED", 430, 40, ""},
		{"LISTEN", 200, 110, ""},
		{"SYN-RECEIVED", 200, 220, "syn_retries: 31 s"},
		{"SYN-SENT", 660, 220, "syn_retries: 31 s"},
		{"ESTABLISHED", 430, 330, "keepalive 75 s, user_timeout 75 s, zero_window 10 m"},
		{"FIN-WAIT-1", 200, 450, "fin_wait1: 2 m"},
		{"CLOSE-WAIT", 660, 450, "close_wait: 10 m, half_close: 5 m"},
		{"FIN-WAIT-2", 110, 580, "fin_wait2: 60 s"},
		{"CLOSING", 400, 580, "closing: 2 m"},
		{"LAST-ACK", 660, 580, "last_ack: 2 m"},
		{"TIME-WAIT", 260, 700, "time_wait.duration: 60 s"},
		{"CLOSED ", 660, 700, ""},
	}
}

// Arrows are the ways between them.
func Arrows() []Arrow {
	return []Arrow{
		{"CLOSED", "LISTEN", "a service listens", -50, -14},
		{"CLOSED", "SYN-SENT", "a backend is dialled / SYN", 70, -24},
		{"LISTEN", "SYN-RECEIVED", "SYN / SYN, ACK", -66, 4},
		{"SYN-SENT", "SYN-RECEIVED", "SYN / SYN, ACK", 0, -10},
		{"SYN-RECEIVED", "ESTABLISHED", "ACK", -40, 10},
		{"SYN-SENT", "ESTABLISHED", "SYN, ACK / ACK", 60, 12},
		{"ESTABLISHED", "FIN-WAIT-1", "we finish / FIN", -70, -8},
		{"ESTABLISHED", "CLOSE-WAIT", "FIN / ACK", 46, -8},
		{"FIN-WAIT-1", "FIN-WAIT-2", "ACK of our FIN", -58, 0},
		{"FIN-WAIT-1", "CLOSING", "FIN / ACK", 42, -8},
		{"FIN-WAIT-1", "TIME-WAIT", "FIN, ACK / ACK", -6, 44},
		{"CLOSE-WAIT", "LAST-ACK", "we finish / FIN", 62, 4},
		{"FIN-WAIT-2", "TIME-WAIT", "FIN / ACK", -46, 8},
		{"CLOSING", "TIME-WAIT", "ACK of our FIN", 70, 8},
		{"LAST-ACK", "CLOSED ", "ACK of our FIN", 62, 4},
		{"TIME-WAIT", "CLOSED ", "its time is over", 0, -10},
		{"TIME-WAIT", "TIME-WAIT", "FIN again / ACK", -150, 36},
	}
}
