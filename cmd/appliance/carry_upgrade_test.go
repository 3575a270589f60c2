package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// Another process takes over every second, for a minute, under connections that
// talk all the time and transfers of bulk: none is lost and no byte is wrong,
// whatever carries them.
func TestAProcessASecondUnderLoad(t *testing.T) {
	s := carryWish(t)
	n, rounds := 100, 3
	if os.Getenv("APPLIANCE_SOAK") != "" {
		n, rounds = 300, 60
	}
	for _, f := range s.forwarding {
		t.Run(f, func(t *testing.T) { processes(t, f, n, rounds) })
	}
}

func processes(t *testing.T, forwarding string, n, rounds int) {
	r := newRig(t, nil)
	labtest.Echo(t, r.backend, "10.0.0.21:7")
	up, down := lab.Blob{Size: 64 << 20, Seed: 1}, lab.Blob{Size: 64 << 20, Seed: 2}
	labtest.BulkServer(t, r.backend, "10.0.0.21:9", down, up)
	r.configure(fmt.Sprintf(`services:
  echo: {type: proxy, listen: "wan0:7", backends: ["10.0.0.21:7"], forwarding: %[1]s}
  bulk: {type: proxy, listen: "wan0:9", backends: ["10.0.0.21:9"], forwarding: %[1]s}
drain: {deadline: 2s, fin_grace: 2s}
`, forwarding))
	l := r.startLine()
	var waits stalls
	asked, stop := r.chatter(n, "192.0.2.10:7", &waits)
	quit, bulk := make(chan struct{}), make(chan error, 1)
	go func() { bulk <- r.transfers("192.0.2.10:9", up, down, quit) }() // waited for below
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := range rounds {
		<-tick.C
		if got := l.upgrade(); got.Connections < n || got.Lost != 0 {
			t.Errorf("process %d: %d connections went over, want at least %d; %d were lost", i, got.Connections, n, got.Lost)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("a connection that was to go on: %v", err)
	}
	close(quit)
	if err := <-bulk; err != nil {
		t.Errorf("the bulk transfers: %v", err)
	}
	t.Logf("%d connections, %d processes, %d questions, the longest wait for an answer %v", n, rounds, asked.Load(), waits.take())
	l.stop()
}

// transfers sends and receives blobs, one after the other, until quit, and the
// last of them to its end.
func (r *rig) transfers(addr string, up, down lab.Blob, quit <-chan struct{}) error {
	for i := 0; ; i++ {
		if _, err := lab.Bulk(r.t.Context(), r.client, addr, up, down); err != nil {
			return fmt.Errorf("transfer %d: %w", i, err)
		}
		select {
		case <-quit:
			return nil
		default:
		}
	}
}
