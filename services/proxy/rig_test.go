package proxy_test

import (
	"context"
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
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

var (
	front = netip.MustParseAddrPort("198.51.100.1:80")
	back1 = netip.MustParseAddrPort("10.0.0.21:80")
	back2 = netip.MustParseAddrPort("10.0.0.22:80")
	back3 = netip.MustParseAddrPort("10.0.0.23:80")
)

// rig is a proxy between clients and backends on a network in memory.
type rig struct {
	*testing.T
	net   *servicestest.Net
	carry *servicestest.CarrierNet // if not nil it is the proxy's network
	owner string                   // its name for carry, if not its own
	loops *services.Loops
	proxy *proxy.Proxy
	conf  config.Service
	pol   config.Policy
}

func newRig(t *testing.T) *rig {
	return &rig{
		T: t, net: &servicestest.Net{Delay: time.Millisecond},
		conf: config.Service{
			Name: "web", Type: "proxy", Policy: "default",
			Listen:         []config.Listen{{Addrs: []netip.AddrPort{front}}},
			Backends:       []netip.AddrPort{back1},
			ConnectTimeout: 5 * time.Second, ConnectRetries: 3, IdleTimeout: config.Off,
		},
		pol: config.DefaultPolicy(),
	}
}

func (r *rig) start() {
	r.Helper()
	r.loops = services.NewLoops(services.LoopOptions{N: 2})
	r.proxy = proxy.New(r.conf, r.pol, r.env())
	if err := r.proxy.Start(); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) env() services.Env {
	env := services.Env{Network: r.net, Loops: r.loops, Owner: r.owner, Log: slog.New(slog.DiscardHandler)}
	if r.carry != nil {
		env.Network = r.carry
	}
	return env
}

// stop ends all and checks that nothing is left.
func (r *rig) stop() {
	r.Helper()
	r.proxy.Close()
	r.loops.Close()
	time.Sleep(time.Second) // what is on its way to the peers arrives
	if c := r.proxy.Counters(); c.Active != 0 || c.Settling != 0 {
		r.Errorf("%d connections active and %d settling after Close, want none", c.Active, c.Settling)
	}
}

func (r *rig) backend(addr netip.AddrPort) *servicestest.Host {
	r.Helper()
	h, err := r.net.Host(addr)
	if err != nil {
		r.Fatal(err)
	}
	return h
}

func (r *rig) client() *servicestest.Peer {
	r.Helper()
	c, err := r.net.Client(front)
	if err != nil {
		r.Fatal(err)
	}
	return c
}

// pair is a client and the backend's view of its connection.
func (r *rig) pair(h *servicestest.Host) (client, backend *servicestest.Peer) {
	r.Helper()
	client = r.client()
	backend, err := h.Accept()
	if err != nil {
		r.Fatal(err)
	}
	return client, backend
}

// ended returns the last connection that ended, once all is quiet.
func (r *rig) ended() services.Ended {
	r.Helper()
	synctest.Wait()
	all := r.proxy.Ended()
	if len(all) == 0 {
		r.Fatal("no connection has ended")
	}
	return all[0]
}

func (r *rig) wantEnd(reason services.Reason, who string, how services.How, o services.Outcome) services.Ended {
	r.Helper()
	e := r.ended()
	if e.Reason != reason || e.First.Who != who || e.First.How != how || e.Outcome != o {
		r.Errorf("ended %s (%s), first %s %s, outcome %s; want %s, %s %s, %s",
			e.Reason, e.Detail, e.First.Who, e.First.How, e.Outcome, reason, who, how, o)
	}
	return e
}

func (r *rig) say(p *servicestest.Peer, text string) {
	r.Helper()
	if _, err := p.Write([]byte(text)); err != nil {
		r.Errorf("write %q: %v", text, err)
	}
}

func (r *rig) hear(p *servicestest.Peer, want string) {
	r.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(p, got); err != nil || string(got) != want {
		r.Errorf("read %q, %v; want %q", got, err, want)
	}
}

func (r *rig) hearEnd(p *servicestest.Peer) {
	r.Helper()
	if n, err := p.Read(make([]byte, 100)); err != io.EOF {
		r.Errorf("read %d bytes, %v; want EOF", n, err)
	}
}

func (r *rig) hearReset(p *servicestest.Peer) {
	r.Helper()
	if n, err := p.Read(make([]byte, 100)); !errors.Is(err, syscall.ECONNRESET) {
		r.Errorf("read %d bytes, %v; want a reset", n, err)
	}
}

// background drains the proxy while the test goes on.
func (r *rig) background(ctx context.Context, d config.Drain) <-chan services.Report {
	done := make(chan services.Report, 1)
	go func() { done <- r.proxy.Drain(ctx, d) }()
	return done
}
