package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
)

func main() {
	os.Exit(play(os.Args[1:], os.Stdout, os.Stderr))
}

// play is the program in one of its three roles. It returns the exit status.
func play(args []string, stdout, stderr io.Writer) int {
	if status, ok := playRole(args, stdout, stderr); ok {
		return status
	}
	err := measureAll(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return report(err, stderr)
}

// playRole does what this program asks of its own processes.
func playRole(args []string, stdout, stderr io.Writer) (status int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case roleLoad:
		return report(loadMain(args[1:], stdout), stderr), true
	case roleServe:
		return report(serveMain(args[1:], stdout), stderr), true
	}
	return 0, false
}

func report(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "bench: %v\n", err)
	return 1
}

// measureAll is the role of the user's process.
func measureAll(args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	say := progress{out: stderr, verbose: o.verbose}
	if !lab.Inside() {
		installHAProxy(say)
	}
	if err := enterLab(say); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	s, err := newSuite(o, say)
	if err != nil {
		return err
	}
	err = s.run(ctx)
	if len(s.result.Figures) > 0 {
		s.result.conclude()
		fmt.Fprint(stdout, s.result.table())
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; everything that was started is stopped")
	}
	if err != nil {
		return err
	}
	file, err := s.result.save(o.json)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nwritten to %s\n", file)
	return nil
}

// enterLab makes sure that namespaces can be made. Root makes them as they are,
// since the limits of socket buffers can't be passed in a user namespace.
func enterLab(say progress) error {
	if os.Geteuid() == 0 && !lab.Inside() {
		h, err := lab.NewHost("probe")
		if err == nil {
			return h.Close()
		}
	}
	if !lab.Inside() {
		say.line("not root: in a user namespace, where socket buffers are limited by net.core.rmem_max")
	}
	return lab.Enter()
}

// progress is what the user reads meanwhile.
type progress struct {
	out     io.Writer
	verbose bool
}

func (p progress) line(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

func (p progress) detail(format string, args ...any) {
	if p.verbose {
		p.line("  "+format, args...)
	}
}
