package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"
)

// roleLoad is the first argument of the client's process.
const roleLoad = "load"

// readyLine is what a process prints that goes on until its input ends.
const readyLine = "ready"

// The kinds of load.
const (
	modeBulk     = "bulk"     // send as much as goes, until standard input ends
	modeIdle     = "idle"     // ask once on each connection, then hold it, until standard input ends
	modeRequests = "requests" // ask on each connection as soon as the last answer is there
	modePaced    = "paced"    // ask at a fixed rate, whatever the answers do
	modeConnects = "connects" // connect, ask once, see the server's end, and again
)

// load says what a client does.
type load struct {
	mode   string
	addr   string
	conns  int
	warmup time.Duration
	length time.Duration
	rate   float64 // requests per second, if paced
}

// outcome is what came of it.
type outcome struct {
	Count   int64         `json:"count"` // answers or connections
	Length  time.Duration `json:"length"`
	Failed  int64         `json:"failed"`
	Failure string        `json:"failure,omitempty"` // the first one
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
}

// perSecond is the rate of what succeeded.
func (o outcome) perSecond() float64 { return float64(o.Count) / o.Length.Seconds() }

// fail counts a failure and keeps the first.
func (o *outcome) fail(err error) {
	if o.Failed == 0 {
		o.Failure = err.Error()
	}
	o.Failed++
}

// args is the command line for l, which loadMain reads.
func (l load) args() []string {
	return []string{
		roleLoad, "-mode", l.mode, "-addr", l.addr, "-conns", strconv.Itoa(l.conns),
		"-warmup", l.warmup.String(), "-length", l.length.String(),
		"-rate", strconv.FormatFloat(l.rate, 'f', -1, 64),
	}
}

func parseLoad(args []string) (load, error) {
	var l load
	f := flag.NewFlagSet(roleLoad, flag.ContinueOnError)
	f.StringVar(&l.mode, "mode", "", "do `WHAT`")
	f.StringVar(&l.addr, "addr", "", "connect to `ADDRESS`")
	f.IntVar(&l.conns, "conns", 1, "use `N` connections")
	f.DurationVar(&l.warmup, "warmup", 0, "do it so long before measuring")
	f.DurationVar(&l.length, "length", 0, "measure so long")
	f.Float64Var(&l.rate, "rate", 0, "ask `N` times a second")
	return l, f.Parse(args)
}

// loadMain plays the client.
func loadMain(args []string, stdout io.Writer) error {
	l, err := parseLoad(args)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(2)
	switch l.mode {
	case modeBulk:
		return l.bulk(stdout)
	case modeIdle:
		return l.idle(stdout)
	}
	o, err := l.measure()
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(o)
}

// measure does one of the loads that end by themselves.
func (l load) measure() (outcome, error) {
	switch l.mode {
	case modeRequests:
		return l.requests()
	case modePaced:
		return l.paced()
	case modeConnects:
		return l.connects()
	}
	return outcome{}, fmt.Errorf("there is no load called %q", l.mode)
}

// ready says that it goes on from here, and ends the process when standard
// input ends.
func ready(stdout io.Writer) {
	fmt.Fprintln(stdout, readyLine)
	go func() {
		// However it ends, nobody wants more of this process.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
}

// window is the time in which things count, after the warm-up.
type window struct {
	begin, end time.Time
	open       bool
}

func (l load) window() window {
	begin := time.Now().Add(l.warmup)
	return window{begin: begin, end: begin.Add(l.length)}
}

// begins reports, once, that now is the first moment seen within the window.
func (w *window) begins(now time.Time) bool {
	if w.open || now.Before(w.begin) {
		return false
	}
	w.open, w.begin = true, now
	return true
}

// ended reports whether the window is over.
func (w *window) ended(now time.Time) bool { return !now.Before(w.end) }
