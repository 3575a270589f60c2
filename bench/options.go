package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// options are the command line.
type options struct {
	appliance string
	rounds    int
	length    time.Duration // of one measurement
	warmup    time.Duration // before each
	only      []string      // experiments; empty means all
	carriers  []string      // the appliance's values of forwarding, each a peer
	profiles  string        // directory for CPU profiles, empty for none
	json      string
	verbose   bool
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{warmup: 500 * time.Millisecond}
	var seconds float64
	var only, carriers string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.appliance, "appliance", "bin/appliance", "measure the appliance's `BINARY`")
	f.IntVar(&o.rounds, "rounds", 5, "repeat each measurement `N` times, the peers in turn")
	f.Float64Var(&seconds, "seconds", 2, "let each measurement take `N` seconds, after half a second of warming up")
	f.StringVar(&only, "only", "", "measure only these, by comma: "+strings.Join(experimentKeys(), ","))
	f.StringVar(&carriers, "forwarding", "auto", "measure the appliance with each of `LIST`, by comma: "+strings.Join(forwardings, ","))
	f.StringVar(&o.profiles, "profiles", "", "write the appliance's CPU profiles to `DIR`, one for each figure: FIGURE.FORWARDING.PID")
	f.StringVar(&o.json, "json", "", "write the result to `FILE` (default bench/results/DATE-KERNEL-ARCH.json)")
	f.BoolVar(&o.verbose, "v", false, "show every single measurement")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.length = time.Duration(seconds * float64(time.Second))
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	o.carriers = strings.Split(carriers, ",")
	return o, o.check(f.Args())
}

// check refuses what can't be measured.
func (o options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("argument %q is one too many", rest[0])
	}
	if o.rounds < 1 || o.rounds > 1000 {
		return fmt.Errorf("-rounds %d: allowed are 1 to 1000", o.rounds)
	}
	if o.length < 100*time.Millisecond || o.length > time.Hour {
		return fmt.Errorf("-seconds %g: allowed are 0.1 to 3600", o.length.Seconds())
	}
	for i, f := range o.carriers {
		if !slices.Contains(forwardings, f) || slices.Contains(o.carriers[:i], f) {
			return fmt.Errorf("-forwarding %s: allowed are %s, each once", f, strings.Join(forwardings, ","))
		}
	}
	for _, key := range o.only {
		if !slices.Contains(experimentKeys(), key) {
			return fmt.Errorf("-only %s: allowed are %s", key, strings.Join(experimentKeys(), ","))
		}
	}
	return nil
}

// forwardings are the values of the appliance's key of that name.
var forwardings = []string{"auto", "relay", "splice", "direct"}

// wants reports whether an experiment is asked for.
func (o options) wants(key string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, key)
}
