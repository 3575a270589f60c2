package flow_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// waits moves the clock by d, or until the connection has ended. Who lives answers
// keepalive probes, as a kernel does. cseq and bseq are what the client and the
// backend send next.
func (k *talk) waits(d time.Duration, cseq, bseq uint32, live ...*end) {
	k.Helper()
	for left := d; left > 0 && len(k.ended) == 0; left -= 100 * time.Millisecond {
		k.clock.Advance(100 * time.Millisecond)
		for _, e := range []*end{k.client, k.backend} {
			e.val += 100
		}
		for _, e := range live {
			mine, theirs := cseq, bseq
			if e == k.backend {
				mine, theirs = bseq, cseq
			}
			for len(e.heard) > 0 && !e.heard[0].Flags.Has(lab.RST) {
				if s, _ := e.next(); s.Seq-e.irs == theirs-1 {
					e.say(lab.ACK, mine, theirs, "")
				}
			}
		}
	}
}

// The defaults are 60 s, then three probes of 5 s each: a vanished peer is noticed
// after 75 s, on either side; the other one, who answers, is told. RSTs are exact.
func TestAVanishedPeerOfACarriedConnectionIsNoticedAfter75Seconds(t *testing.T) {
	t.Parallel()
	for _, dead := range []string{"client", "backend"} {
		bothWays(t, nil, func(k *talk) {
			k.exchange(1, 1)
			gone, alive, rules := k.client, k.backend, [2]tcpinfo.Rule{tcpinfo.Keepalive, ""}
			if dead == "backend" {
				gone, alive, rules = k.backend, k.client, [2]tcpinfo.Rule{"", tcpinfo.Keepalive}
			}
			k.waits(59*time.Second, 6, 6, alive)
			gone.silence("before a minute has passed")
			k.waits(15*time.Second, 6, 6, alive)
			for range 3 {
				gone.hearAt("a probe", lab.ACK, 5, 6)
			}
			gone.silence("before its time")
			k.waits(2*time.Second, 6, 6, alive)
			gone.hearAt("RST", lab.RST|lab.ACK, 6, 6)
			alive.hearAt("RST", lab.RST|lab.ACK, 6, 6)
			e := k.end()
			if e.Age < 75*time.Second || e.Age > 75500*time.Millisecond {
				k.Errorf("it was noticed after %v, want 75s", e.Age)
			}
			if got := [2]tcpinfo.Rule{e.Client.Rule, e.Backend.Rule}; got != rules || reason(e) != "first us by keepalive with RST" {
				k.Errorf("it has ended as %s, rules %q, want %q", reason(e), got, rules)
			}
		})
	}
}

// A peer that answers probes is kept, though nothing moves.
func TestAPeerThatAnswersIsKept(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.waits(20*time.Minute, 6, 6, k.client, k.backend)
		k.client.heard, k.backend.heard = nil, nil
		k.exchange(6, 6)
	})
}

// A keepalive probe may have a byte of data, which was acknowledged before (RFC
// 9293, 3.8.4). That is for the other peer to answer, and moves nothing: the
// peer that sends it does not keep a dead one alive, nor an idle connection.
func TestTheByteOfAKeepaliveProbeMovesNothing(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) { // the backend is dead
		k.exchange(1, 1)
		for len(k.ended) == 0 && k.live().Age < 3*time.Minute {
			k.client.say(lab.ACK, 5, 6, "\x00")
			k.backend.hearAt("the client's probe", lab.ACK, 5, 6)
			k.waits(5*time.Second, 6, 6, k.client)
			k.backend.heard = nil
		}
		if e := k.end(); e.Backend.Rule != tcpinfo.Keepalive || e.Age > 76*time.Second {
			k.Errorf("it has ended as %s after %v, want by keepalive of the backend after 75s", reason(e), e.Age)
		}
	})
	idle := func(k *talk) { k.settings.IdleTimeout = 3 * time.Minute }
	bothWays(t, idle, func(k *talk) {
		k.exchange(1, 1)
		k.each(func(p, o *end) {
			for i := 0; i < 8 && !k.live().View.Parted; i++ {
				p.say(lab.ACK, 5, 6, "\x00")
				o.hearAt("a probe", lab.ACK, 5, 6)
				o.say(lab.ACK, 6, 6, "")
				p.hearAt("its answer", lab.ACK, 6, 6)
				k.waits(10*time.Second, 6, 6, o)
			}
		})
		k.waits(21*time.Second, 6, 6)
		if c := k.live(); c == nil || !c.View.Parted || c.FirstBy != tcpinfo.IdleTimeout {
			k.Errorf("after more than three idle minutes it is %+v, want it closed by idle_timeout", c)
		}
	})
}

// A peer whose window stays closed and who answers is given up by zero_window,
// however the other one probes it: before what is next, as Linux does, or with a
// byte beyond the window, as others do (RFC 9293, 3.8.6.1). One that does not answer
// is given up by user_timeout.
func TestAClosedWindowOfACarriedConnectionHasItsBound(t *testing.T) {
	t.Parallel()
	for _, probe := range []struct {
		seq  uint32
		data string
	}{{5, ""}, {6, "x"}} {
		for _, answers := range []bool{true, false} {
			bothWays(t, nil, func(k *talk) {
				k.exchange(1, 1)
				c, b := k.client, k.backend
				b.win = 0
				b.say(lab.ACK, 6, 6, "")
				c.hearAt("a closed window", lab.ACK, 6, 6)
				gone := k.live().Age
				for len(k.ended) == 0 && k.live().Age < time.Hour {
					c.say(lab.ACK, probe.seq, 6, probe.data)
					if answers {
						b.say(lab.ACK, 6, 6, "")
					}
					k.waits(20*time.Second, 6, 6, c)
					b.heard = nil
				}
				want, after := tcpinfo.ZeroWindow, k.policy.ZeroWindow
				if !answers {
					want, after = tcpinfo.UserTimeout, k.policy.UserTimeout
					if probe.data == "" {
						want = tcpinfo.Keepalive // nothing is under way: it is asked by us
					}
				}
				if e := k.end(); e.Backend.Rule != want || e.Age < after || e.Age > gone+after+time.Second {
					k.Errorf("probed with %q, answered: %v, it has ended by %q after %v, want %q after %v", probe.data, answers, e.Backend.Rule, e.Age, want, after)
				}
			})
		}
	}
}

// What looks like the answer to a probe of ours, but tells another window, is the
// other peer's affair.
func TestAWindowThatOpensWhileWeProbePasses(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		b := k.backend
		b.win = 0
		b.say(lab.ACK, 6, 6, "")
		k.client.hearAt("a closed window", lab.ACK, 6, 6)
		k.waits(61*time.Second, 6, 6, k.client)
		b.hearAt("a probe", lab.ACK, 5, 6)
		b.win = 300
		b.say(lab.ACK, 6, 6, "")
		if s := k.client.hearAt("the open window", lab.ACK, 6, 6); s.Win != 300 {
			k.Errorf("the window is %d, want 300", s.Win)
		}
		b.say(lab.ACK, 6, 6, "")
		k.client.heard = nil
	})
}
