package diag_test

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/diag"
	"github.com/lastack/lastack/services/servicestest"
)

func TestAnIdleClientIsAskedAndEndsIfItDoesNotAnswer(t *testing.T) {
	for _, kind := range []string{"echo", "discard"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { askClient(t, kind) })
		})
	}
}

func askClient(t *testing.T, kind string) {
	const question, answer = "are you there?\n", "yes\n"
	net := &servicestest.Net{Delay: time.Millisecond}
	loops := services.NewLoops(services.LoopOptions{N: 1})
	defer loops.Close()
	c := config.Service{
		Name: kind, Type: kind, Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}},
		Heartbeat: config.Heartbeat{Side: "client", Idle: 10 * time.Second, Timeout: 2 * time.Second, Send: question, Expect: answer},
	}
	d, err := diag.New(c, config.DefaultPolicy(), services.Env{Network: net, Loops: loops, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	client, err := net.Client(front)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(question))
	for range 2 {
		begin := time.Now()
		if _, err := io.ReadFull(client, got); err != nil || string(got) != question {
			t.Fatalf("read %q, %v; want the question", got, err)
		}
		if took := time.Since(begin); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("asked after %v, want 10s", took)
		}
		if _, err := client.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(client, got); err != nil || string(got) != question {
		t.Fatalf("read %q, %v; want the question and no answer echoed", got, err)
	}
	if _, err := client.Read(got); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client that does not answer got %v, want a reset", err)
	}
	synctest.Wait()
	if all := d.Ended(); len(all) != 1 || all[0].Reason != services.ClientHeartbeat || all[0].First.Who != "client" {
		t.Errorf("ended %+v, want one with client_heartbeat", all)
	}
}
