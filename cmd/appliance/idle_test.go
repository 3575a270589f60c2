package main

import (
	"context"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// Ten thousand idle connections end in one round trip each, all at once: a drain
// takes less than the announcement and two round trips. They are long here, for
// the four ends of ten thousand connections have to share two cores in between.
func TestTenThousandIdleConnectionsDrainInLessThanTwoRoundTrips(t *testing.T) {
	byEachCarrier(t, idleDrain)
}

func idleDrain(t *testing.T, forwarding string) {
	const announce, way = 500 * time.Millisecond, time.Second
	n := 10_000
	if testing.Short() {
		n = 500
	}
	r := newRig(t, &lab.Impairment{})
	labtest.EchoProcess(t, r.backend, "10.0.0.21:7")
	r.configure(`services: {echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"], forwarding: ` + forwarding + `}}
drain: {announce: 500ms, deadline: 20s, fin_grace: 20s}
`)
	p := r.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := lab.OpenMany(ctx, r.client, "192.0.2.10:7", n)
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, m)
	r.wan.Set(lab.Impairment{Delay: way})
	learn(t, m) // or FINs would be sent again before they could be answered

	var ends atomic.Int64
	var reading sync.WaitGroup
	for _, c := range m.Conns() {
		reading.Go(func() {
			if _, err := io.Copy(io.Discard, c); err == nil {
				ends.Add(1)
			}
			c.Close()
		})
	}
	time.Sleep(time.Second) // all are quiet
	begin := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.end(time.Minute); code != exitOK {
		t.Errorf("got exit status %d, want 0", code)
	}
	whole := time.Since(begin)
	reading.Wait()
	report, err := loadReport(filepath.Join(r.dir, "nic"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections, round trip %v: drained in %v, %v from the signal to the end of the process", n, 2*way, report.Took.Round(time.Millisecond), whole.Round(time.Millisecond))
	if got := int(ends.Load()); got != n || report.Clean != n {
		t.Errorf("of %d clients %d saw the end, and the report says that %d ended clean", n, got, report.Clean)
	}
	if report.Took < announce+2*way || report.Took > announce+inTime(4*way) {
		t.Errorf("the drain took %v, want the announcement of %v, and a round trip to %v", report.Took, announce, inTime(4*way))
	}
}

// learn has all connections exchange a line at once, so that both ends know how
// long the line is.
func learn(t *testing.T, m *lab.Many) {
	t.Helper()
	var all sync.WaitGroup
	var failed atomic.Int64
	for _, c := range m.Conns() {
		all.Go(func() {
			if _, err := c.Write([]byte("hello\n")); err != nil {
				failed.Add(1)
				return
			}
			if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d connections did not echo", n)
	}
}
