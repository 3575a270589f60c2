package sshd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/internal/console"
)

// Requests of a session (RFC 4254, 6). What is not here is refused: no agent, no
// X11, no environment, no subsystem.
type (
	ptyRequest struct {
		Term          string
		Columns, Rows uint32
		Width, Height uint32
		Modes         string
	}
	windowChange struct{ Columns, Rows, Width, Height uint32 }
	execRequest  struct{ Command string }
	signalled    struct{ Signal string }
	exitStatus   struct{ Status uint32 }
)

// session is one command, or a prompt. The goroutine of its requests owns it.
type session struct {
	s      *Server
	ch     ssh.Channel
	name   string // of the key
	cancel context.CancelFunc
	begun  bool
	pty    bool
	size   windowChange
	prompt *console.Prompt // nil without a terminal, or before it begins
}

func (s *Server) session(ctx context.Context, ask ssh.NewChannel, name string) {
	ch, requests, err := ask.Accept()
	if err != nil {
		return // the peer has gone
	}
	ctx, cancel := context.WithCancel(ctx)
	one := &session{s: s, ch: ch, name: name, cancel: cancel, size: windowChange{Columns: 80, Rows: 24}}
	var running sync.WaitGroup
	for r := range requests {
		granted, start := one.request(ctx, r)
		if r.WantReply {
			_ = r.Reply(granted, nil) // the peer may have gone
		}
		if start != nil {
			running.Go(func() { one.finish(start()) })
		}
	}
	cancel() // the channel is closed: nobody listens
	running.Wait()
	if one.prompt != nil {
		one.prompt.Wait()
	}
}

// request does one, and says whether it is granted and what is to run then.
func (o *session) request(ctx context.Context, r *ssh.Request) (granted bool, start func() int) {
	switch r.Type {
	case "pty-req":
		var p ptyRequest
		if o.begun || ssh.Unmarshal(r.Payload, &p) != nil {
			return false, nil
		}
		o.pty, o.size = true, windowChange{p.Columns, p.Rows, p.Width, p.Height}
		return true, nil
	case "window-change":
		var w windowChange
		if ssh.Unmarshal(r.Payload, &w) != nil {
			return false, nil
		}
		if o.size = w; o.prompt != nil {
			o.prompt.Resize(int(w.Columns), int(w.Rows))
		}
		return true, nil
	case "signal":
		var sig signalled
		if ssh.Unmarshal(r.Payload, &sig) == nil && (sig.Signal == "INT" || sig.Signal == "TERM" || sig.Signal == "HUP") {
			o.cancel()
		}
		return true, nil
	case "exec":
		var e execRequest
		if o.begun || ssh.Unmarshal(r.Payload, &e) != nil {
			return false, nil
		}
		o.begin()
		return true, func() int { return o.run(ctx, e.Command) }
	case "shell":
		if o.begun {
			return false, nil
		}
		interactive := o.pty
		o.pty = true // lines are edited even if the client's are, too
		o.begin()
		return true, func() int { return o.interact(ctx, interactive) }
	}
	return false, nil
}

// begin makes the terminal, if the client has one.
func (o *session) begin() {
	if o.begun = true; !o.pty {
		return
	}
	o.prompt = console.New(o.ch, o.s.o.Prompt, audited{o})
	o.prompt.Resize(int(o.size.Columns), int(o.size.Rows))
	o.prompt.Begin()
}

// run runs the command of an exec request.
func (o *session) run(ctx context.Context, line string) int {
	words, err := console.Words(line)
	if err != nil {
		fmt.Fprintf(o.ch.Stderr(), "%v\n", err)
		return usage
	}
	if o.prompt != nil {
		return o.prompt.Once(ctx, words)
	}
	return audited{o}.Run(ctx, words, console.Streams{In: o.ch, Out: o.ch, Err: o.ch.Stderr()})
}

// usage is the exit status of a wrong command line.
const usage = 2

// interact reads commands until the client ends, or ctx does.
func (o *session) interact(ctx context.Context, greet bool) int {
	defer context.AfterFunc(ctx, func() {
		o.prompt.Say("\nThis session ends.\n")
		_ = o.ch.Close() // ends the reading, or has been closed by the peer
	})()
	if greet {
		o.prompt.Say("Lastack " + o.s.o.Version + ": `help` lists the commands, Tab completes, ^C ends a command, ^D ends the session.\n")
	}
	if err := o.prompt.Run(ctx); err != nil {
		return 1
	}
	return 0
}

// finish tells the status and closes the channel.
func (o *session) finish(status int) {
	// The peer may have gone before any of these.
	_, _ = o.ch.SendRequest("exit-status", false, ssh.Marshal(exitStatus{uint32(status)}))
	_ = o.ch.CloseWrite()
	_ = o.ch.Close()
}

// audited are the server's commands, each with a line in the log.
type audited struct{ *session }

// Run implements console.Commands.
func (a audited) Run(ctx context.Context, words []string, s console.Streams) int {
	a.s.count.commands.Add(1)
	begun := time.Now()
	status := a.s.o.Commands.Run(ctx, words, s)
	a.s.o.Log.Info("command by SSH", "key", a.name, "command", strings.Join(words, " "), "status", status, "took", time.Since(begun).Round(time.Millisecond))
	return status
}

// Complete implements console.Commands.
func (a audited) Complete(words []string) []string { return a.s.o.Commands.Complete(words) }
