package services_test

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/diag"
	"github.com/lastack/lastack/services/servicestest"
)

// brittle is a network whose first accepted connection panics when it is asked
// about its FIN, once the calls it may answer are used up.
type brittle struct {
	*servicestest.Net
	answers atomic.Int32
}

func (n *brittle) Listen(addr netip.AddrPort, policy string) (services.Listener, error) {
	l, err := n.Net.Listen(addr, policy)
	return &brittleListener{Listener: l, net: n}, err
}

type brittleListener struct {
	services.Listener
	net  *brittle
	once atomic.Bool
}

func (l *brittleListener) TryAccept() (services.Conn, error) {
	c, err := l.Listener.TryAccept()
	if err == nil && !l.once.Swap(true) {
		return &brittleConn{c, l.net}, nil
	}
	return c, err
}

type brittleConn struct {
	services.Conn
	net *brittle
}

func (c *brittleConn) FinAcked() bool {
	if c.net.answers.Add(-1) < 0 {
		panic("a fault of the connection")
	}
	return c.Conn.FinAcked()
}

// A panic over a connection that had ended leaves nothing behind for which a
// drain would wait, wherever it happens.
func TestAPanicWhileAnEndSettlesIsNotWaitedFor(t *testing.T) {
	for answers := range int32(5) {
		synctest.Test(t, func(t *testing.T) {
			net := &brittle{Net: &servicestest.Net{Delay: 300 * time.Millisecond}}
			net.answers.Store(answers)
			loops := services.NewLoops(services.LoopOptions{N: 1})
			defer loops.Close()
			c := config.Service{Name: "echo", Type: "echo", Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}}}
			d, err := diag.New(c, config.DefaultPolicy(), services.Env{Network: net, Loops: loops})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Start(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				client, err := net.Client(front)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				client.CloseWrite()
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			got := d.Counters()
			if got.Active != 0 || got.Settling != 0 || got.Ended["finished"] != 1 || got.Ended["internal_error"] != 1 {
				t.Errorf("after %d answers: %+v, want one finished, one lost and nothing left", answers, got)
			}
			d.Close()
		})
	}
}
