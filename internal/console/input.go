package console

import (
	"io"
	"sync"
)

const (
	keyInterrupt = 3          // ^C
	keyEnd       = 4          // ^D
	dropLine     = "\x05\x15" // to the end of the line, and delete it
)

// input is what comes from a keyboard, read by one goroutine so that ^C is heard
// while a command runs. What is typed ahead waits, up to a bound.
type input struct {
	mu        sync.Mutex // guards the rest
	more      *sync.Cond
	held      []byte
	err       error
	interrupt func() // called at ^C; nil while a line is edited
	cut       bool   // what a command reads has ended by ^C
	next      []byte // typed since then: for who reads after the command
	between   bool   // a line was read, and maybe a command is about to begin
	early     bool   // ^C came then
}

// typedAhead bounds what waits for the next command.
const typedAhead = 64 << 10

func newInput() *input {
	in := &input{}
	in.more = sync.NewCond(&in.mu)
	return in
}

// pump reads until the source ends.
func (in *input) pump(from io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		in.take(buf[:n], err)
		if err != nil {
			return
		}
	}
}

func (in *input) take(p []byte, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, b := range p {
		switch {
		case b == keyInterrupt && in.interrupt != nil:
			in.held, in.next, in.cut = []byte(dropLine), nil, true
			in.interrupt()
		case b == keyInterrupt && in.between:
			in.held, in.early = nil, true
		case b == keyInterrupt:
			in.held = []byte(dropLine) // a terminal forgets what was typed ahead, too
		case in.cut && in.interrupt != nil:
			if len(in.next) < typedAhead {
				in.next = append(in.next, b)
			}
		case len(in.held) < typedAhead:
			in.held = append(in.held, b)
		}
	}
	if err != nil {
		in.err = err
	}
	in.more.Broadcast()
}

// Read implements io.Reader for the line editor.
func (in *input) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.between, in.early = false, false
	for len(in.held) == 0 && in.err == nil && !in.cut {
		in.more.Wait()
	}
	switch {
	case len(in.held) > 0:
	case in.cut:
		return 0, io.EOF
	default:
		return 0, in.err
	}
	n := copy(p, in.held[:lineEnd(in.held)])
	in.held = in.held[n:]
	in.between = p[n-1] == '\r' || p[n-1] == '\n'
	return n, nil
}

// lineEnd is where the first line ends, or all: what comes behind it may be for
// another reader than the line editor.
func lineEnd(p []byte) int {
	for i, b := range p {
		switch {
		case b == '\r' && i+1 < len(p) && p[i+1] == '\n':
			return i + 2
		case b == '\r', b == '\n', b == keyEnd:
			return i + 1
		}
	}
	return len(p)
}

// onInterrupt sets what ^C does; nil makes it a key of the line editor.
func (in *input) onInterrupt(f func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.interrupt, in.cut = f, false
	in.held, in.next = append(in.held, in.next...), nil
	if f != nil && in.early {
		in.held, in.next, in.cut = nil, in.held, true
		f()
	}
	in.between, in.early = false, false
}

// giveUp ends what is read, as ^D does.
func (in *input) giveUp() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held, in.cut = nil, true
	in.more.Broadcast()
}

// ended reports whether nothing more comes.
func (in *input) ended() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err != nil && len(in.held) == 0
}
