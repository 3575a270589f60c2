package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// TestMain plays the server and the load as well: they are this program again.
func TestMain(m *testing.M) {
	if status, ok := playRole(os.Args[1:], os.Stdout, os.Stderr); ok {
		os.Exit(status)
	}
	labtest.Main(m)
}

func TestLoadPassesThroughARouter(t *testing.T) {
	labtest.Need(t)
	r, err := build(t.Context(), routingPeer(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, e := range experiments {
		if e.key == memoryKey {
			continue // it is of processes in the middle, and takes long
		}
		values, err := e.measure(t.Context(), trial{rig: r, warmup: 50 * time.Millisecond, length: 150 * time.Millisecond, rate: 500, note: t.Logf})
		if err != nil {
			t.Fatalf("%s: %v", e.key, err)
		}
		for i, f := range e.figures {
			if values[i] <= 0 {
				t.Errorf("got %v %s for %s, want more than 0", values[i], f.Unit, f.Title)
			}
		}
	}
}

func TestIdleConnectionsStayOpen(t *testing.T) {
	labtest.Need(t)
	r, err := build(t.Context(), routingPeer(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	l := load{mode: modeIdle, addr: r.target(httpPort), conns: 100}
	clients, err := hold(t.Context(), r.client, "the load", l.args()...)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.serving.counts(); err != nil || c.Open != 100 {
		t.Errorf("got %d open connections, %v, want 100", c.Open, err)
	}
	if err := clients.close(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := r.serving.counts()
		if err == nil && c.Open == 0 {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("got %d open connections, %v, after the clients ended, want 0", c.Open, err)
		}
	}
}

func TestAProxyThatEndsAtOnceIsAnErrorWithItsWords(t *testing.T) {
	labtest.Need(t)
	broken := appliancePeer("/bin/cat", "auto") // which knows no "-c"
	_, err := build(t.Context(), broken, "")
	if err == nil || !strings.Contains(err.Error(), "cat:") {
		t.Errorf("got %v, want an error with what the process said", err)
	}
}

func TestAnInterruptEndsALoadAtOnce(t *testing.T) {
	labtest.Need(t)
	r, err := build(t.Context(), routingPeer(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	l := load{mode: modeRequests, addr: r.target(httpPort), conns: 2, length: time.Minute}
	if _, err := runLoad(ctx, r.client, l); err == nil {
		t.Error("got no error from a load that was interrupted, want one")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("got the end after %v, want it at once", took)
	}
}

// On one connection, to a server that is silent for 300 ms: the requests that
// were due meanwhile all waited, though only one of them was sent.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	h := labtest.Host(t, "h")
	stall := 300 * time.Millisecond
	s := serveAnswers(t, h, func(i int) string {
		if i == 0 {
			<-time.After(stall)
		}
		return answer
	})
	o, err := measureOn(h, load{mode: modePaced, addr: s.Addr(), conns: 1, length: 400 * time.Millisecond, rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	if o.Count != 40 {
		t.Errorf("got %d latencies, want 40", o.Count)
	}
	if o.Max < stall {
		t.Errorf("got %v for the longest, want at least %v", o.Max, stall)
	}
	// Thirty were due in the silence and waited for 300, 290, 280 ms and so on.
	if want := 90 * time.Millisecond; o.P50 < want {
		t.Errorf("got %v for the median, want at least %v", o.P50, want)
	}
}

func TestAWrongAnswerIsAnError(t *testing.T) {
	h := labtest.Host(t, "h")
	s := serveAnswers(t, h, func(int) string { return strings.Replace(answer, "200", "503", 1) })
	_, err := measureOn(h, load{mode: modeRequests, addr: s.Addr(), conns: 1, length: time.Second})
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want an error with the answer", err)
	}
}

func TestConnectionsThatAreRefusedAreCounted(t *testing.T) {
	h := labtest.Host(t, "h")
	o, err := measureOn(h, load{mode: modeConnects, addr: "127.0.0.1:9", conns: 2, length: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if o.Count != 0 || o.Failed == 0 || !strings.Contains(o.Failure, "refused") {
		t.Errorf("got %+v, want failures alone, as refused", o)
	}
}

func TestAPeerThatCannotKeepUpIsAnError(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as such a peer is given, 6 s")
	}
	h := labtest.Host(t, "h")
	s := serveAnswers(t, h, func(int) string { <-time.After(time.Second); return answer })
	_, err := measureOn(h, load{mode: modePaced, addr: s.Addr(), conns: 1, length: 100 * time.Millisecond, rate: 1000})
	if err == nil || !strings.Contains(err.Error(), "unanswered") {
		t.Errorf("got %v, want an error about unanswered requests", err)
	}
}

// measureOn runs a load inside this process.
func measureOn(h *lab.Host, l load) (o outcome, err error) {
	err = h.Do(func() error {
		o, err = l.measure()
		return err
	})
	return o, err
}

// serveAnswers answers the i-th request of each connection.
func serveAnswers(t *testing.T, h *lab.Host, text func(i int) string) *lab.Server {
	t.Helper()
	s, err := lab.Serve(t.Context(), h, "127.0.0.1:0", func(c net.Conn) error {
		buf := make([]byte, len(request))
		for i := 0; ; i++ {
			if _, err := io.ReadFull(c, buf); err != nil {
				return fmt.Errorf("read a request: %w", err)
			}
			if _, err := io.WriteString(c, text(i)); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, s)
	return s
}
