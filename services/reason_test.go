package services_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/proxy"
	"github.com/lastack/lastack/services/servicestest"
)

var (
	front = netip.MustParseAddrPort("198.51.100.1:80")
	back  = netip.MustParseAddrPort("10.0.0.21:80")
)

// relay runs f with a proxy of one backend.
func relay(t *testing.T, change func(*config.Service, *config.Policy), f func(net *servicestest.Net, p *proxy.Proxy, pair func() (client, backend *servicestest.Peer))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		net := &servicestest.Net{Delay: time.Millisecond}
		loops := services.NewLoops(services.LoopOptions{N: 1})
		defer loops.Close()
		c := config.Service{
			Name: "web", Type: "proxy", Policy: "default", Listen: []config.Listen{{Addrs: []netip.AddrPort{front}}},
			Backends: []netip.AddrPort{back}, ConnectTimeout: time.Second, IdleTimeout: config.Off,
		}
		policy := config.DefaultPolicy()
		if change != nil {
			change(&c, &policy)
		}
		p := proxy.New(c, policy, services.Env{Network: net, Loops: loops})
		h, err := net.Host(back)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		f(net, p, func() (*servicestest.Peer, *servicestest.Peer) {
			client, err := net.Client(front)
			if err != nil {
				t.Fatal(err)
			}
			backend, err := h.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return client, backend
		})
	})
}

// ruled is the death that a rule of the policy brought.
type ruled struct{ rule tcpinfo.Rule }

func (e ruled) Error() string      { return "limit " + string(e.rule) }
func (e ruled) Unwrap() error      { return syscall.ETIMEDOUT }
func (e ruled) Rule() tcpinfo.Rule { return e.rule }

func TestEachRuleOfThePolicyIsAReasonOfItsOwn(t *testing.T) {
	rules := []tcpinfo.Rule{
		tcpinfo.Keepalive, tcpinfo.UserTimeout, tcpinfo.MaxRetries, tcpinfo.SynRetries, tcpinfo.FinWait1, tcpinfo.FinWait2,
		tcpinfo.Closing, tcpinfo.LastAck, tcpinfo.CloseWait, tcpinfo.ZeroWindow,
	}
	for _, rule := range rules {
		t.Run(string(rule), func(t *testing.T) {
			relay(t, nil, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
				client, _ := pair()
				client.Peer().Die(ruled{rule})
				_, backend := pair()
				backend.Peer().Die(ruled{rule})
				time.Sleep(time.Second)
				synctest.Wait()
				all := p.Ended()
				if len(all) != 2 {
					t.Fatalf("%d have ended, want 2", len(all))
				}
				if got, want := all[1].Reason.String(), "client_"+string(rule); got != want || all[1].First.Who != "client" {
					t.Errorf("got %s by %s, want %s", got, all[1].First.Who, want)
				}
				if got, want := all[0].Reason.String(), "backend_"+string(rule); got != want || all[0].First.Who != "backend" {
					t.Errorf("got %s by %s, want %s", got, all[0].First.Who, want)
				}
			})
		})
	}
}

func TestNoTwoReasonsShareAName(t *testing.T) {
	seen := map[string]bool{}
	for r := services.Live; !strings.HasPrefix(r.String(), "reason "); r++ {
		name := r.String()
		if name == "" || seen[name] {
			t.Errorf("reason %d is called %q, want a name of its own", uint8(r), name)
		}
		seen[name] = true
		var back services.Reason
		if err := back.UnmarshalText([]byte(name)); err != nil || back != r {
			t.Errorf("%q reads as %v, %v", name, back, err)
		}
	}
	if len(seen) < 40 {
		t.Errorf("%d reasons, want all", len(seen))
	}
}

func TestTheLedgerKeepsAsManyAsItIsTold(t *testing.T) {
	for _, c := range []struct{ ledger, want int }{{3, 3}, {-1, 0}, {0, 5}} {
		relay(t, func(s *config.Service, _ *config.Policy) { s.Ledger = c.ledger }, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
			var last uint64
			for range 5 {
				client, _ := pair()
				last = client.Peer().ID()
				client.Abort()
				time.Sleep(time.Second)
			}
			synctest.Wait()
			all := p.Ended()
			if len(all) != c.want || c.want > 0 && all[0].ID != last {
				t.Errorf("ledger %d keeps %d, want %d, the newest first", c.ledger, len(all), c.want)
			}
			if got := p.Counters().Ended["client_reset"]; got != 5 {
				t.Errorf("%d resets counted, want 5", got)
			}
		})
	}
}

func TestAKillEndsOneConnectionInOrderOrAtOnce(t *testing.T) {
	for _, c := range []struct {
		how  string
		want error
	}{{"fin", nil}, {"rst", syscall.ECONNRESET}} {
		t.Run(c.how, func(t *testing.T) {
			relay(t, nil, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
				client, backend := pair()
				other, otherBackend := pair()
				id := client.Peer().ID()
				if err := p.Kill(id, "gently"); err == nil || errors.Is(err, services.ErrUnknown) {
					t.Errorf("an unknown way gave %v", err)
				}
				if err := p.Kill(id, c.how); err != nil {
					t.Fatal(err)
				}
				for _, end := range []*servicestest.Peer{client, backend} {
					if err := readToEnd(end); !errors.Is(err, c.want) {
						t.Errorf("a side got %v, want %v", err, c.want)
					}
					end.Close()
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if all := p.Ended(); len(all) != 1 || all[0].Reason != services.Killed || all[0].First.Who != "us" {
					t.Errorf("ended %+v, want one killed by us", all)
				}
				if err := p.Kill(id, c.how); !errors.Is(err, services.ErrUnknown) {
					t.Errorf("a second kill gave %v", err)
				}
				if _, err := other.Write([]byte("alive")); err != nil {
					t.Error(err)
				}
				if n, err := otherBackend.Read(make([]byte, 5)); n != 5 {
					t.Errorf("the other got %d bytes, %v", n, err)
				}
			})
		})
	}
}

// readToEnd is how the stream ends: nil is FIN.
func readToEnd(p *servicestest.Peer) error {
	for {
		_, err := p.Read(make([]byte, 1000))
		switch {
		case err == nil:
		case err.Error() == "EOF":
			return nil
		default:
			return err
		}
	}
}

func TestAProbeTellsOfBothSides(t *testing.T) {
	relay(t, nil, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
		client, _ := pair()
		time.Sleep(time.Second)
		got, err := p.Probe(context.Background(), client.Peer().ID())
		if err != nil || got.Client.Alive != tcpinfo.Answers || got.Backend == nil || got.Backend.Alive != tcpinfo.Answers {
			t.Errorf("got %+v, %v; want both alive", got, err)
		}
		if _, err := services.NewSupervisor(p).Probe(context.Background(), 1<<40); !errors.Is(err, services.ErrUnknown) {
			t.Errorf("an unknown ID gave %v", err)
		}
	})
}

func TestLingerOfZeroResetsOnlyWhatWeEnd(t *testing.T) {
	abortive := func(c *config.Service, p *config.Policy) { p.AbortiveClose, c.IdleTimeout = true, 10*time.Second }
	relay(t, abortive, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
		client, backend := pair()
		client.Close()
		if err := readToEnd(backend); err != nil {
			t.Errorf("a client's FIN arrived as %v, want FIN", err)
		}
		backend.Close()
		client, backend = pair()
		if err := readToEnd(client); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an idle client got %v, want a reset", err)
		}
		if err := readToEnd(backend); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an idle backend got %v, want a reset", err)
		}
		synctest.Wait()
		if all := p.Ended(); len(all) != 2 || all[0].Reason != services.IdleTimeout || all[1].Reason != services.Finished {
			t.Errorf("ended %+v, want idle_timeout after finished", all)
		}
	})
}

func TestLingerBoundsAFinThatIsNotAcknowledged(t *testing.T) {
	lingering := func(c *config.Service, p *config.Policy) { p.Linger, c.IdleTimeout = 3*time.Second, 10*time.Second }
	relay(t, lingering, func(net *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
		client, backend := pair()
		client.Vanish()
		began := time.Now()
		if err := readToEnd(backend); err != nil {
			t.Errorf("the backend got %v, want FIN", err)
		}
		backend.Close()
		for len(p.Ended()) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		e := p.Ended()[0]
		if took := time.Since(began); took < 12*time.Second || took > 15*time.Second {
			t.Errorf("ended after %v, want 13s: idle_timeout and linger", took)
		}
		if !e.Client.Reset {
			t.Errorf("ended %+v, want the client reset", e)
		}
	})
}

func TestHalfCloseOffLeavesFinWait2AsTheBound(t *testing.T) {
	change := func(_ *config.Service, p *config.Policy) { p.HalfClose, p.FinWait2 = config.Off, 20*time.Second }
	relay(t, change, func(_ *servicestest.Net, p *proxy.Proxy, pair func() (*servicestest.Peer, *servicestest.Peer)) {
		client, backend := pair()
		client.CloseWrite()
		began := time.Now()
		for range 3 { // as long as the other side talks, it may
			time.Sleep(15 * time.Second)
			if _, err := backend.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		if err := readToEnd(client); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
		if took := time.Since(began); took < 64*time.Second || took > 66*time.Second {
			t.Errorf("ended after %v, want 65s", took)
		}
		if e := p.Ended()[0]; e.Reason != services.FinWait2Timeout {
			t.Errorf("ended %s, want fin_wait2_timeout", e.Reason)
		}
	})
}
