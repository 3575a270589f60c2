package services_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

// clumsy is a service's handler with a fault: it panics where it is told to.
type clumsy struct {
	services.Session
	run, giveUp bool
}

func (c *clumsy) Run(now time.Duration, ready services.Ready) {
	if c.Gone() {
		return
	}
	if ready&services.ReadyStop != 0 {
		c.Abort(now, services.Stopped, services.First{Who: "us", How: services.ByRST})
		return
	}
	if ready&services.ReadyStart != 0 && !c.Begin(now) {
		return
	}
	if c.run {
		panic("a fault of the handler")
	}
}

func (c *clumsy) Panicked(now time.Duration) {
	c.Abort(now, services.InternalError, services.First{Who: "us", How: services.ByRST})
	if c.giveUp {
		panic("another one")
	}
}

// Wherever a service's own code panics, its connection is reset, logged and
// counted; the service goes on, and a close waits for nothing that is gone.
func TestAPanicLosesItsConnectionOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		open func() (*services.Session, services.Runner)
	}{
		{"as the connection is taken", func() (*services.Session, services.Runner) { panic("no handler") }},
		{"in the handler", func() (*services.Session, services.Runner) { h := &clumsy{run: true}; return &h.Session, h }},
		{"in the handler and giving up", func() (*services.Session, services.Runner) {
			h := &clumsy{run: true, giveUp: true}
			return &h.Session, h
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { losesOne(t, c.open) })
		})
	}
}

func losesOne(t *testing.T, faulty services.OpenFunc) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	net := &servicestest.Net{Delay: time.Millisecond}
	loops := services.NewLoops(services.LoopOptions{N: 1, Log: logger})
	var second atomic.Bool
	open := func() (*services.Session, services.Runner) {
		if second.Swap(true) {
			h := &clumsy{}
			return &h.Session, h
		}
		return faulty()
	}
	conf := config.Service{Name: "web", Type: "echo", Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}}, MaxConns: 1}
	s := services.NewServer(conf, config.DefaultPolicy(), services.Env{Network: net, Loops: loops, Log: logger}, open)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	bad, err := net.Client(front)
	if err != nil {
		t.Fatal(err)
	}
	if err := readToEnd(bad); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
	good, err := net.Client(front)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	if err := good.Established(); err != nil {
		t.Errorf("the next client has %v, want a connection under max_conns", err)
	}
	counters := s.Counters()
	if counters.Ended["internal_error"] != 1 || counters.Active != 1 || loops.Stats().Panics != 1 {
		t.Errorf("counted %+v and %d panics, want one internal_error, one active and one panic", counters, loops.Stats().Panics)
	}
	s.Close()
	loops.Close()
	if !strings.Contains(log.String(), "task panicked") {
		t.Errorf("the log is %q, want the panic in it", log.String())
	}
	if c := s.Counters(); c.Active != 0 || c.Settling != 0 {
		t.Errorf("%d active and %d settling after Close, want none", c.Active, c.Settling)
	}
}
