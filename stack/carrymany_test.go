package stack_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// TestCarriedPortsComeRoundAgain makes more connections than a client has ports,
// one after the other on each of many lines, without timestamps. The server
// finishes first, so that the client's ports and ours come round while the table
// and the server have them in TIME-WAIT.
func TestCarriedPortsComeRoundAgain(t *testing.T) {
	for _, by := range []tcpinfo.Carrier{tcpinfo.Splice, tcpinfo.Direct} {
		t.Run(string(by), func(t *testing.T) {
			b := newBetween(t, false, nil)
			for _, h := range []*lab.Host{b.client, b.server} {
				labtest.Sysctl(t, h, "net.ipv4.tcp_timestamps", "0")
			}
			labtest.Sysctl(t, b.client, "net.ipv4.ip_local_port_range", "40000 40999")
			s, err := lab.Serve(limit(t), b.server, netip.AddrPortFrom(server4, 80).String(), func(c net.Conn) error {
				line, err := bufio.NewReader(c).ReadString('\n')
				if err == nil {
					_, err = io.WriteString(c, line)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			labtest.Close(t, s)
			at := netip.AddrPortFrom(wan4, 80)
			b.carry(t, at, netip.AddrPortFrom(server4, 80), by)
			const lines, each = 32, 125
			var failed atomic.Int32
			var wg sync.WaitGroup
			for i := range lines {
				wg.Go(func() {
					for n := range each {
						if err := b.visit(t, at, fmt.Sprintf("line %d visit %d\n", i, n)); err != nil && failed.Add(1) < 5 {
							t.Errorf("line %d visit %d: %v", i, n, err)
						}
					}
				})
			}
			wg.Wait()
			// The backend finishes first: whoever finishes first has TIME-WAIT (RFC 9293, 3.6).
			b.owner.end(t, lines*each)
			if n := b.flows.Count.TimeWaits.Load(); n != lines*each {
				t.Errorf("%d legs were in TIME-WAIT, want %d: each client's", n, lines*each)
			}
			if n := failed.Load(); n > 0 {
				t.Errorf("%d of %d connections failed", n, lines*each)
			}
		})
	}
}

func (b *between) visit(t *testing.T, at netip.AddrPort, ask string) error {
	c, err := b.client.Dial(limit(t), "tcp", at.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, ask); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != ask {
		err = fmt.Errorf("got %q, want %q", got, ask)
	}
	return err
}
