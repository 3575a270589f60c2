package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/term"
)

// Login says how one logs in at a terminal that anybody can walk up to.
type Login struct {
	Host string
	// Hash is the password's, by bcrypt; "" is none yet.
	Hash func() string
	// Set remembers the hash of another password.
	Set      func(hash string) error
	Commands Commands
	Open     []string      // commands that may be used while there is no password
	Idle     time.Duration // without a line, after which one is logged out; 0 is never
	Pause    time.Duration // after a wrong password
}

// Bounds of a password, in bytes: more than bcrypt's 72 would count for nothing.
const (
	shortestPassword = 8
	longestPassword  = 72
	hashCost         = 12 // of bcrypt: a quarter of a second on a small box
)

// ErrGone says that the terminal has gone away.
var ErrGone = errors.New("the terminal has gone")

// Serve logs in and prompts on a terminal, again and again, until ctx ends or the
// terminal goes away. It is in raw mode meanwhile. The file must have been opened
// without blocking (OpenTTY), or the end of ctx is seen with the next key.
func Serve(ctx context.Context, tty *os.File, l Login) error {
	restore, err := raw(tty)
	if err != nil {
		return err
	}
	defer restore()
	p := New(tty, l.Host+"> ", nil)
	p.Begin()
	defer p.Wait()
	defer hangUp(tty)
	defer context.AfterFunc(ctx, func() { hangUp(tty) })()
	for ctx.Err() == nil && !p.in.ended() {
		p.renew()
		if columns, lines, err := size(tty); err == nil {
			p.Resize(columns, lines)
		}
		l.once(ctx, p)
	}
	if ctx.Err() != nil {
		return nil
	}
	return ErrGone
}

// OpenTTY opens a terminal that does not become ours: keys are read, not signals.
func OpenTTY(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|openFlags, 0)
}

// hangUp ends the reading.
func hangUp(tty *os.File) { _ = tty.SetReadDeadline(time.Unix(1, 0)) } // a file without deadlines ends with its next key

// raw makes the terminal tell each key, and returns what undoes it.
func raw(tty *os.File) (restore func(), err error) {
	var before *term.State
	err = with(tty, func(fd int) (err error) {
		if before, err = term.MakeRaw(fd); err != nil {
			return err
		}
		return local(fd)
	})
	if err != nil {
		return nil, fmt.Errorf("read single keys from %s: %w", tty.Name(), err)
	}
	return func() {
		_ = with(tty, func(fd int) error { return term.Restore(fd, before) }) // it may have gone
	}, nil
}

func size(tty *os.File) (columns, lines int, err error) {
	err = with(tty, func(fd int) (err error) {
		columns, lines, err = term.GetSize(fd)
		return err
	})
	return columns, lines, err
}

// with gives the descriptor, which File.Fd would make block.
func with(tty *os.File, f func(fd int) error) error {
	c, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// once is from one login to its logout.
func (l Login) once(ctx context.Context, p *Prompt) {
	hash := l.Hash()
	if hash == "" {
		p.Say(fmt.Sprintf("\n%s: no password is set. `passwd` sets one; until then there is only: %s.\n", l.Host, strings.Join(l.Open, ", ")))
		p.commands = &walkUp{l: l, p: p, open: true}
		_ = p.Run(ctx) // the end of ctx or of the terminal, which Serve sees
		return
	}
	p.Say(fmt.Sprintf("\n%s: the appliance's console.\n", l.Host))
	given, err := p.term.ReadPassword("password: ")
	if err != nil {
		return // ^D: from the beginning
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(given)) != nil {
		p.Say("wrong\n")
		timer := time.NewTimer(l.Pause)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		return
	}
	p.Say("`help` lists the commands, Tab completes, ^C ends a command, ^D logs out.\n")
	p.commands = &walkUp{l: l, p: p}
	p.idle = l.Idle
	_ = p.Run(ctx) // as above
	p.idle = 0
}

// walkUp are the commands at a terminal: those of the appliance, or a few of
// them, and passwd.
type walkUp struct {
	l    Login
	p    *Prompt
	open bool // there is no password yet
}

// Run implements Commands.
func (w *walkUp) Run(ctx context.Context, words []string, s Streams) int {
	if words[0] == "passwd" {
		return w.passwd(s.Err)
	}
	if w.open && !slices.Contains(w.l.Open, words[0]) {
		fmt.Fprintf(s.Err, "set a password first: `passwd`. Until then there is only: %s\n", strings.Join(w.l.Open, ", "))
		return 1
	}
	return w.l.Commands.Run(ctx, words, s)
}

// Complete implements Commands.
func (w *walkUp) Complete(words []string) []string {
	all := w.l.Commands.Complete(words)
	if len(words) > 1 {
		return all
	}
	if strings.HasPrefix("passwd", words[0]) {
		all = append(all, "passwd")
	}
	if w.open {
		all = slices.DeleteFunc(all, func(s string) bool { return s != "passwd" && !slices.Contains(w.l.Open, s) })
	}
	return all
}

// passwd asks for another password, twice.
func (w *walkUp) passwd(out io.Writer) int {
	lines := term.NewTerminal(readWriter{w.p.in, w.p.out.w}, "") // of its own, as in typed
	first, err := lines.ReadPassword("new password: ")
	if err != nil {
		return 1
	}
	second, err := lines.ReadPassword("once more: ")
	if err != nil {
		return 1
	}
	if first != second {
		fmt.Fprintln(out, "the two differ: nothing is changed")
		return 1
	}
	hash, err := Hash(first)
	if err == nil {
		err = w.l.Set(hash)
	}
	if err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	fmt.Fprintln(out, "the password is set")
	if w.open {
		w.p.over = true // from now on one logs in
	}
	return 0
}

// Hash is a password's, as Login.Hash gives it back.
func Hash(password string) (string, error) {
	if n := len(password); n < shortestPassword || n > longestPassword {
		return "", fmt.Errorf("a password has %d to %d bytes, not %d", shortestPassword, longestPassword, n)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), hashCost)
	return string(hash), err
}
