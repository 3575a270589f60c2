package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// suite is all that is measured in one run.
type suite struct {
	options
	say    progress
	peers  []peer
	idle   int
	result *result
	// repeats is how many measurements may still be repeated.
	repeats int
}

func newSuite(o options, say progress) (*suite, error) {
	binary, err := applianceBinary(o.appliance)
	if err != nil {
		return nil, err
	}
	idle, err := idleConnections()
	if err != nil {
		return nil, err
	}
	s := &suite{options: o, say: say, idle: idle, repeats: repeatsMost, peers: []peer{routingPeer()}}
	path, version := findHAProxy()
	if path == "" {
		say.line("without HAProxy: it is not installed (apt-get install haproxy)")
	} else {
		s.peers = append(s.peers, haproxyPeer(path, version, idle+1000))
	}
	for _, f := range o.carriers {
		s.peers = append(s.peers, appliancePeer(binary, f))
	}
	if o.profiles != "" {
		if s.profiles, err = filepath.Abs(o.profiles); err == nil {
			err = os.MkdirAll(s.profiles, 0o755)
		}
		if err != nil {
			return nil, fmt.Errorf("make a place for profiles: %w", err)
		}
	}
	s.result = newResult(s.peers, version, binary, o)
	if load := s.result.Machine.LoadAverage; load > busyLoad {
		say.line("the load average is %.2f: if that is other programs, the figures will be lower and noisy", load)
	}
	return s, nil
}

func applianceBinary(name string) (string, error) {
	path, err := filepath.Abs(name)
	if err == nil {
		_, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("find the appliance (make bin/appliance builds it): %w", err)
	}
	return path, nil
}

// idleConnections is how many idle connections there may be: a proxy needs two
// open files for each, and some.
func idleConnections() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return idleWithin(l.Max), nil
}

// idleWithin leaves room for HAProxy's maxconn, 1000 higher, and its pipes, one
// for every four connections.
func idleWithin(files uint64) int {
	const most = 4000
	return int(min(most, max(100, (files-min(files, 3000))/3)))
}

// run measures everything.
func (s *suite) run(ctx context.Context) error {
	before, err := machineTicks()
	if err != nil {
		return err
	}
	defer func() {
		if now, err := machineTicks(); err == nil {
			s.result.Stolen = now.stolenSince(before)
		}
	}()
	for _, e := range experiments {
		if !s.wants(e.key) {
			continue
		}
		if e.rate != nil {
			if err := s.needRequests(ctx); err != nil {
				return err
			}
		}
		if err := s.runExperiment(ctx, e); err != nil {
			return fmt.Errorf("measure %s: %w", e.key, err)
		}
		if e.key == memoryKey {
			s.result.lessRouting()
		}
	}
	return nil
}

// needRequests measures requests, unless that is done: a rate comes from them.
func (s *suite) needRequests(ctx context.Context) error {
	const key = "requests"
	if len(s.result.Values[key]) > 0 {
		return nil
	}
	return s.runExperiment(ctx, experimentCalled(key))
}

// rate is how many requests per second the peer is to get.
func (s *suite) rate(e experiment, peerName string) float64 {
	if e.rate == nil {
		return 0
	}
	rate := e.rate(s.result.Values["requests"], peerName)
	s.result.setRate(e.key, peerName, rate)
	return rate
}

// runExperiment measures all peers in turn, round by round.
func (s *suite) runExperiment(ctx context.Context, e experiment) (err error) {
	s.say.line("%s", e.figures[0].Title)
	rigs := make(map[string]*rig)
	defer func() {
		for _, r := range rigs {
			err = errors.Join(err, r.close())
		}
	}()
	for round := range s.rounds {
		for i := range s.peers {
			// Another one is first in each round: whatever is before a
			// measurement is before that of every peer.
			p := s.peers[(round+i)%len(s.peers)]
			if err := s.runTrial(ctx, e, p, rigs); err != nil {
				return fmt.Errorf("%s: %w", p.title, err)
			}
		}
	}
	return nil
}

// runTrial measures one peer once, in its rig of this experiment or a new one.
func (s *suite) runTrial(ctx context.Context, e experiment, p peer, rigs map[string]*rig) error {
	r := rigs[p.name]
	if r == nil {
		var err error
		if r, err = build(ctx, p, s.profileOf(e)); err != nil {
			return err
		}
		rigs[p.name] = r
	}
	m, err := s.measureAgain(ctx, e, r)
	if e.fresh {
		delete(rigs, p.name)
		err = errors.Join(err, r.close())
	}
	if err != nil {
		return err
	}
	for i, f := range e.figures {
		s.result.add(f, p.name, m.values[i])
		s.say.detail("%-16s %10.2f %s", p.title, m.values[i], f.Unit)
	}
	s.result.addCosts(e.key, p.name, m)
	s.say.detail("%-16s %10.2f cores used by its process, %.0f%% of all stolen", "", m.cores, 100*m.stolen)
	return nil
}

// profileOf is where the profile of an experiment begins its name.
func (s *suite) profileOf(e experiment) string {
	if s.profiles == "" {
		return ""
	}
	return filepath.Join(s.profiles, e.key)
}

// measured is what one measurement gives.
type measured struct {
	values []float64 // for each figure
	cores  float64   // used by the peer's process meanwhile, 0 if it has none
	stolen float64   // share of the machine's CPU time meanwhile
}

// orBetter is the one of which less was stolen.
func (m measured) orBetter(other measured) measured {
	if other.stolen < m.stolen {
		return other
	}
	return m
}

// measureAgain measures, and once more if too much was stolen.
func (s *suite) measureAgain(ctx context.Context, e experiment, r *rig) (measured, error) {
	m, err := s.measure(ctx, e, r)
	if err != nil || e.fresh || m.stolen <= tooMuchStolen || s.repeats == 0 {
		return m, err
	}
	s.repeats--
	s.say.detail("%-16s once more: %.0f%% of the CPU time was stolen", r.peer.title, 100*m.stolen)
	other, err := s.measure(ctx, e, r)
	return m.orBetter(other), err
}

func (s *suite) measure(ctx context.Context, e experiment, r *rig) (m measured, err error) {
	before, err1 := machineTicks()
	used, err2 := r.proxy.cpuTime()
	began := time.Now()
	m.values, err = e.measure(ctx, trial{
		rig: r, warmup: s.warmup, length: s.length, rate: s.rate(e, r.peer.name), idle: s.idle, note: s.say.line,
	})
	took := time.Since(began)
	usedNow, err3 := r.proxy.cpuTime()
	after, err4 := machineTicks()
	m.cores = (usedNow - used).Seconds() / took.Seconds()
	m.stolen = after.stolenSince(before)
	return m, errors.Join(err, err1, err2, err3, err4)
}

// hasCommand reports whether there is a program called name.
func hasCommand(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// installHAProxy does so on Debian and its kin, as root.
func installHAProxy(say progress) {
	if hasCommand("haproxy") || os.Geteuid() != 0 || !hasCommand("apt-get") {
		return
	}
	say.line("HAProxy is missing: apt-get install -y haproxy")
	out, err := aptGet("install", "-y", "-q", "haproxy")
	if err != nil { // a fresh machine has no lists of packages yet
		if out, err = aptGet("update", "-q"); err == nil {
			out, err = aptGet("install", "-y", "-q", "haproxy")
		}
	}
	if err != nil {
		say.line("it could not be installed: %v\n%s", err, out)
	}
}

func aptGet(args ...string) (out []byte, err error) {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.CombinedOutput()
}
