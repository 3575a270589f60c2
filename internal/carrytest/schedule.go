package carrytest

import (
	"fmt"
	"strings"
	"time"
)

// Schedule is what the two peers of one connection do.
type Schedule struct {
	Seed  uint64
	Index int
	Kind  string // for people
	Lane  int    // of the Stage
	// FromV6 and ToV6 are the address families of the client's and of the backend's side.
	FromV6, ToV6    bool
	Client, Backend Script
}

// Script is one peer's part.
type Script struct {
	// Open is how a client begins: an ordinary handshake unless it says otherwise.
	Open Open
	// Buffer is the size of the socket's buffers, 0 for the kernel's own choice: small ones close the
	// window soon.
	Buffer  int
	NoDelay bool
	Piece   int // the most that is read at once
	Out     []Step
	Stalls  []Stall
	End     Ending
}

// Open is how a client begins.
type Open string

// The ways to begin.
const (
	Plain   Open = ""
	WithACK Open = "data with the handshake's ACK"
	WithSYN Open = "data in the SYN"
)

// Step writes something when its time has come: after Wait, and when so much
// was read.
type Step struct {
	Wait   time.Duration
	Await  int64 // bytes read; a peer's FIN counts as one more
	Write  int
	Urgent bool // the last byte has the urgent pointer
}

// Stall is a while without reading, from an offset on.
type Stall struct {
	After int64
	For   time.Duration
}

// Ending is what a peer does after its steps.
type Ending struct {
	How   How
	Wait  time.Duration
	Await int64
	// Then is how long FinReset waits between its FIN and its RST.
	Then time.Duration
}

// How is the way a script ends.
type How string

// The ways to end.
const (
	Fin      How = "FIN"           // and reads until the other's FIN
	Reset    How = "RST"           // at once
	FinReset How = "FIN, then RST" // while the other has not finished
	Hold     How = "hold"          // is there until it is reset
)

// total is how much a script writes.
func (s *Script) total() int64 {
	var n int64
	for _, step := range s.Out {
		n += int64(step.Write)
	}
	return n
}

func (s *Script) resets() bool { return s.End.How == Reset || s.End.How == FinReset }

// String is the schedule for a person who looks for a fault.
func (s *Schedule) String() string {
	return fmt.Sprintf("seed %d, connection %d (%s), lane %d, %s\n  client:  %s\n  backend: %s",
		s.Seed, s.Index, s.Kind, s.Lane, s.families(), &s.Client, &s.Backend)
}

func (s *Schedule) families() string {
	name := map[bool]string{false: "IPv4", true: "IPv6"}
	return name[s.FromV6] + " to " + name[s.ToV6]
}

// String is a script in one line.
func (s *Script) String() string {
	var words []string
	if s.Open != Plain {
		words = append(words, string(s.Open))
	}
	if s.Buffer > 0 {
		words = append(words, fmt.Sprintf("buffers %d", s.Buffer))
	}
	for _, step := range s.Out {
		text := when(step.Wait, step.Await) + fmt.Sprintf("write %d", step.Write)
		if step.Urgent {
			text += " urgent"
		}
		words = append(words, text)
	}
	for _, stall := range s.Stalls {
		words = append(words, fmt.Sprintf("no reading from %d on for %v", stall.After, stall.For))
	}
	end := when(s.End.Wait, s.End.Await) + string(s.End.How)
	if s.End.How == FinReset {
		end += fmt.Sprintf(" after %v", s.End.Then)
	}
	return strings.Join(append(words, end), "; ")
}

func when(wait time.Duration, await int64) string {
	text := ""
	if await > 0 {
		text += fmt.Sprintf("having read %d ", await)
	}
	if wait > 0 {
		text += fmt.Sprintf("after %v ", wait)
	}
	return text
}
