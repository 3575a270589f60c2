package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// Commands are what may be asked for.
type Commands interface {
	// Run runs one command line and returns its exit status. It ends soon after
	// ctx does.
	Run(ctx context.Context, words []string, s Streams) int
	// Complete lists what the last of the words may become.
	Complete(words []string) []string
}

// Streams are a command's input and output.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Screen is an output that a person looks at: commands redraw it, and fit to its
// width.
type Screen interface {
	io.Writer
	Columns() int
}

// Prompt reads command lines from a terminal and runs them, until ^D, `exit` or
// the end of its input. Lines can be edited, called back and completed.
type Prompt struct {
	commands Commands
	text     string
	in       *input
	out      *screen
	term     *term.Terminal
	raw      io.Reader
	reading  sync.WaitGroup
	idle     time.Duration // how long a line is waited for; 0 is for ever
	over     bool          // Run returns after the command that has set it
}

// screen writes to a terminal in raw mode.
type screen struct {
	w       io.Writer
	columns atomic.Int32
}

// Write turns each line's end into CR LF.
func (s *screen) Write(p []byte) (int, error) {
	if _, err := s.w.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Columns implements Screen.
func (s *screen) Columns() int { return int(s.columns.Load()) }

type readWriter struct {
	io.Reader
	io.Writer
}

// New makes a prompt on a terminal in raw mode; text stands before each line.
func New(rw io.ReadWriter, text string, commands Commands) *Prompt {
	p := &Prompt{commands: commands, text: text, in: newInput(), out: &screen{w: rw}, raw: rw}
	p.renew()
	return p
}

// renew makes the line editor anew: one that has seen ^D sees it again.
func (p *Prompt) renew() {
	p.in.onInterrupt(nil)
	p.over = false
	p.term = term.NewTerminal(readWriter{p.in, p.out.w}, p.text)
	p.term.AutoCompleteCallback = p.complete
}

// Resize says how large the terminal is.
func (p *Prompt) Resize(columns, lines int) {
	if columns <= 0 || lines <= 0 || columns > 1<<15 || lines > 1<<15 {
		return
	}
	p.out.columns.Store(int32(columns))
	_ = p.term.SetSize(columns, lines) // fails only as writing does, which is seen next
}

// Say writes a line or more.
func (p *Prompt) Say(text string) { fmt.Fprint(p.out, text) }

// Begin starts to read. It must come before Run; the goroutine ends
// with the terminal's input, and Wait waits for it.
func (p *Prompt) Begin() { p.reading.Go(func() { p.in.pump(p.raw) }) }

// Wait waits until the terminal's input has ended.
func (p *Prompt) Wait() { p.reading.Wait() }

// Run returns at the end of the input, or when ctx ends and a command was running.
func (p *Prompt) Run(ctx context.Context) error {
	for {
		line, err := p.line()
		switch {
		case errors.Is(err, term.ErrPasteIndicator): // a pasted line is a line
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		words, err := Words(line)
		switch {
		case err != nil:
			p.Say(err.Error() + "\n")
			continue
		case len(words) == 0:
			continue
		case words[0] == "exit" || words[0] == "quit" || words[0] == "logout":
			return nil
		}
		p.Once(ctx, words)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.over {
			return nil
		}
	}
}

// line waits for a line, for as long as idle says.
func (p *Prompt) line() (string, error) {
	if p.idle > 0 {
		defer time.AfterFunc(p.idle, p.in.giveUp).Stop()
	}
	return p.term.ReadLine()
}

// Once runs one command and returns its status; ^C ends it.
func (p *Prompt) Once(ctx context.Context, words []string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.in.onInterrupt(cancel)
	defer p.in.onInterrupt(nil)
	return p.commands.Run(ctx, words, Streams{In: &typed{p: p}, Out: p.out, Err: p.out})
}

// typed is a command's standard input: lines, until ^D on an empty one.
type typed struct {
	p     *Prompt
	lines *term.Terminal // of its own: one that has seen ^D sees it again
	left  []byte
	err   error
}

// Read implements io.Reader.
func (t *typed) Read(b []byte) (int, error) {
	if len(t.left) == 0 && t.err == nil {
		if t.lines == nil {
			t.lines = term.NewTerminal(readWriter{t.p.in, t.p.out.w}, "")
		}
		line, err := t.lines.ReadLine()
		switch {
		case err == nil || errors.Is(err, term.ErrPasteIndicator):
			t.left = []byte(line + "\n")
		default:
			t.err = err
		}
	}
	if len(t.left) == 0 {
		return 0, t.err
	}
	n := copy(b, t.left)
	t.left = t.left[n:]
	return n, nil
}

// complete is what Tab does: as much as all candidates share; at a second one
// they are listed.
func (p *Prompt) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	head, tail := line[:pos], line[pos:]
	words, err := Words(head)
	if err != nil {
		return "", 0, false
	}
	if head == "" || head[len(head)-1] == ' ' {
		words = append(words, "")
	}
	last := words[len(words)-1]
	found := p.commands.Complete(words)
	if len(found) == 0 {
		return line, pos, true
	}
	common := shared(found)
	if len(found) == 1 {
		common += " "
	} else if common == last {
		fmt.Fprintln(p.term, strings.Join(found, "  ")) // at once: the line is drawn again
		return line, pos, true
	}
	head = head[:len(head)-len(last)] + common
	return head + tail, len(head), true
}

// shared is the longest beginning that all have.
func shared(all []string) string {
	common := all[0]
	for _, s := range all[1:] {
		n := 0
		for n < len(common) && n < len(s) && common[n] == s[n] {
			n++
		}
		common = common[:n]
	}
	return common
}
