package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// ourself is a command of this program in another role.
func ourself(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/proc/self/exe", args...)
}

// held is one of our own processes that goes on until its standard input ends.
// Whoever holds it closes it.
type held struct {
	*process
	in    io.WriteCloser
	out   *os.File
	lines *bufio.Reader
}

// hold starts it and waits until it is ready.
func hold(ctx context.Context, h *lab.Host, name string, args ...string) (*held, error) {
	// Not StdoutPipe: Wait, which runs beside, would close it under the reader.
	out, outEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer outEnd.Close()
	cmd := ourself(ctx, args...)
	cmd.Stdout = outEnd
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), out.Close())
	}
	p, err := start(h, name, cmd)
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	outEnd.Close() // now only the process has it, and its end is the end of out
	hd := &held{process: p, in: in, out: out, lines: bufio.NewReader(out)}
	line, err := hd.line()
	if err == nil && line != readyLine {
		err = fmt.Errorf("%s says %q, want %q", name, line, readyLine)
	}
	if err != nil {
		return nil, errors.Join(err, hd.close())
	}
	return hd, nil
}

// line is the next line that it prints.
func (hd *held) line() (string, error) {
	text, err := hd.lines.ReadString('\n')
	if err != nil {
		select {
		case <-hd.ended:
			return "", hd.alive()
		case <-time.After(5 * time.Second):
			return "", fmt.Errorf("read from %s: %w", hd.name, err)
		}
	}
	return text[:len(text)-1], nil
}

// close ends it. It may be called on nil.
func (hd *held) close() error {
	if hd == nil {
		return nil
	}
	return errors.Join(hd.stop(hd.in.Close, 3*time.Second), hd.out.Close())
}

// counts asks a server.
func (hd *held) counts() (counts, error) {
	var c counts
	if _, err := fmt.Fprintln(hd.in, "counts"); err != nil {
		return c, fmt.Errorf("ask %s for its counts: %w", hd.name, err)
	}
	line, err := hd.line()
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(line), &c); err != nil {
		return c, fmt.Errorf("read the counts of %s: %w", hd.name, err)
	}
	return c, nil
}

// runLoad runs a load on h to its end.
func runLoad(ctx context.Context, h *lab.Host, l load) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, l.warmup+l.length+30*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := ourself(ctx, l.args()...)
	cmd.Stdout = &out
	p, err := start(h, "the load", cmd)
	if err != nil {
		return outcome{}, err
	}
	<-p.ended // or ctx kills it
	if p.err != nil {
		return outcome{}, fmt.Errorf("the load %s on %s failed (%w): %s", l.mode, l.addr, p.err, p.said)
	}
	var o outcome
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		return o, fmt.Errorf("read the outcome of the load: %w", err)
	}
	return o, nil
}
