package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/services/admin"
)

func TestThousandsOfConnectionsEchoAtOnce(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	r := newRig(t, nil)
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(`services: {echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}}
drain: {announce: 0s, deadline: 10s, fin_grace: 10s}
`)
	p := r.start()
	before := r.status()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := lab.OpenMany(ctx, r.client, "192.0.2.10:7", n)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, m)
	for range 2 {
		if failed, err := m.Echo(ctx); failed > 0 {
			t.Fatalf("%d of %d connections did not echo, one for: %v", failed, n, err)
		}
	}
	s := r.status()
	if got := s.Services[0].Counters.Active; got != int64(n) {
		t.Errorf("got %d active connections, want %d", got, n)
	}
	// A timer that fires has a goroutine for a moment.
	eventually(t, 10*time.Second, fmt.Sprintf("there are as many goroutines with %d connections as without", n), func() bool {
		return r.status().Goroutines <= before.Goroutines+20
	})
	t.Logf("%d bytes for each connection", (s.Memory-before.Memory)/uint64(n))

	// All of them drain, each with its last ACK.
	var fins atomic.Int64
	var reading sync.WaitGroup
	for _, c := range m.Conns() {
		reading.Go(func() {
			if _, err := io.Copy(io.Discard, c); err == nil {
				fins.Add(1)
			}
			c.Close()
		})
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(time.Minute); code != exitOK {
		t.Errorf("got exit status %d from the drain, want 0", code)
	}
	reading.Wait()
	if report, err := loadReport(filepath.Join(r.dir, "nic")); err != nil {
		t.Error(err)
	} else {
		t.Logf("%d connections drained in %v", n, report.Took.Round(time.Millisecond))
	}
	if got := int(fins.Load()); got != n {
		t.Errorf("%d of %d clients got FIN", got, n)
	}
}

func (r *rig) status() admin.Status {
	r.t.Helper()
	s, err := r.admin.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// One connection after the other, 200,000 in all, leaves nothing behind.
func TestConnectionsOneAfterTheOtherLeaveNothing(t *testing.T) {
	t.Parallel()
	n := 200_000
	if testing.Short() {
		n = 10_000
	}
	r := newRig(t, nil)
	// The client's own ports must not run out.
	labtest.Sysctl(t, r.client, "net.ipv4.ip_local_port_range", "1024 65535")
	labtest.Sysctl(t, r.client, "net.ipv4.tcp_tw_reuse", "1")
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	// TIME-WAIT is a second here, so that its entries are not taken for growth.
	r.configure(`policies: {default: {time_wait: {duration: 1s}}}
services: {echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"]}}
`)
	p := r.start()
	fresh := r.status() // a frame may have come before the stack was there
	r.sequence(n / 4)
	warm := r.settled()
	r.sequence(n - n/4)
	s := r.settled()
	t.Logf("memory %d -> %d, goroutines %d -> %d, states %v", warm.Memory, s.Memory, warm.Goroutines, s.Goroutines, s.TCP)
	if got := s.Services[0].Counters.Accepted; got != uint64(n) {
		t.Errorf("got %d connections accepted, want %d", got, n)
	}
	if s.Goroutines > warm.Goroutines+2 {
		t.Errorf("goroutines grew from %d to %d", warm.Goroutines, s.Goroutines)
	}
	if s.Memory > warm.Memory+warm.Memory/4+4<<20 {
		t.Errorf("memory grew from %d to %d bytes over %d connections", warm.Memory, s.Memory, n)
	}
	for i, card := range s.Interfaces {
		if lost := drops(card.Counters); lost != drops(fresh.Interfaces[i].Counters) {
			t.Errorf("%s dropped frames: %s", card.Name, lost)
		}
	}
	p.stop()
}

// settled waits until no connection is left, TIME-WAIT included, and the memory
// for them has been given back.
func (r *rig) settled() admin.Status {
	r.t.Helper()
	var s admin.Status
	eventually(r.t, 20*time.Second, "every connection is forgotten", func() bool {
		s = r.status()
		left := 0
		for state, n := range s.TCP {
			if state != "LISTEN" {
				left += n
			}
		}
		return left == 0
	})
	for fell := time.Now(); time.Since(fell) < 3*tidyEvery; {
		time.Sleep(tidyEvery / 2) // asking more often would not be quiet
		if now := r.status(); now.Memory < s.Memory {
			s, fell = now, time.Now()
		}
	}
	return s
}

// sequence makes n connections, each after another on one of a few lines.
func (r *rig) sequence(n int) {
	r.t.Helper()
	const lines = 8
	var working sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, lines)
	for i := range lines {
		working.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				errs[i] = r.once()
			}
		})
	}
	working.Wait()
	if err := errors.Join(errs...); err != nil {
		r.t.Fatal(err)
	}
}

// once connects, echoes, and ends the connection from this side.
func (r *rig) once() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Second)
	defer cancel()
	c, err := r.client.Dial(ctx, "tcp", "192.0.2.10:7")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("once\n")); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "once\n" {
		err = fmt.Errorf("sent once, got %q back", got)
	}
	return err
}
