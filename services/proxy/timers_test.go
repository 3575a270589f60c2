package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// timers are those of the only connection, to the second.
func (r *rig) timers() string {
	r.Helper()
	synctest.Wait()
	rows := r.proxy.Conns()
	if len(rows) != 1 {
		r.Fatalf("%d connections are listed, want one", len(rows))
	}
	text := func(all []tcpinfo.Timer) string {
		var parts []string
		for _, t := range all {
			parts = append(parts, fmt.Sprint(t.Name, " ", t.Left.Round(time.Second), " ", t.Try))
		}
		return strings.Join(parts, ", ")
	}
	return fmt.Sprintf("service %s; client %s; backend %s", text(rows[0].Timers), text(rows[0].ClientInfo.Timers), text(rows[0].BackendInfo.Timers))
}

func (r *rig) wantTimers(want string) {
	r.Helper()
	if got := r.timers(); got != want {
		r.Errorf("the timers are %q, want %q", got, want)
	}
}

// A listing shows what the service will end a connection by, and when.
func TestTheServicesTimersAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.IdleTimeout = time.Hour
		r.conf.Heartbeat = config.Heartbeat{Side: "both", Idle: 10 * time.Second, Timeout: 2 * time.Second, Send: question, Expect: answer}
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		r.say(client, "request")
		r.hear(backend, "request")
		r.wantTimers("service idle_timeout 1h0m0s 0; client heartbeat 10s 0; backend heartbeat 10s 0")
		r.hear(backend, question)
		r.hear(client, question)
		r.say(client, answer)
		time.Sleep(100 * time.Millisecond)
		r.wantTimers("service idle_timeout 59m50s 0; client heartbeat 10s 0; backend heartbeat 2s 1")
		r.say(backend, answer)
		time.Sleep(100 * time.Millisecond)
		client.CloseWrite()
		time.Sleep(100 * time.Millisecond)
		if got := r.timers(); !strings.HasPrefix(got, "service half_close 5m0s 0;") {
			t.Errorf("the timers are %q, want half_close first", got)
		}
		if err := r.proxy.Kill(r.proxy.Conns()[0].ID, "fin"); err != nil {
			t.Fatal(err)
		}
		if got := r.timers(); !strings.HasPrefix(got, "service fin_wait2 1m0s 0;") {
			t.Errorf("the timers are %q, want fin_wait2 first", got)
		}
	})
}

// Once we have sent both FINs, the wait for the second peer's is no half-close.
func TestAfterOurFINsTheLastPeerIsListedWithFinWait2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		r.say(client, "request")
		r.hear(backend, "request")
		if err := r.proxy.Kill(r.proxy.Conns()[0].ID, "fin"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		backend.CloseWrite()
		time.Sleep(100 * time.Millisecond)
		r.wantTimers("service fin_wait2 1m0s 0; client ; backend ")
	})
}
