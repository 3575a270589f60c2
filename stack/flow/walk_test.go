package flow_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// walk is the way of a leg through the states.
func walk(l tcpinfo.Leg) string {
	var names []string
	for _, s := range l.Life.Steps {
		names = append(names, s.State)
	}
	return strings.Join(names, " ")
}

// ways wants the legs to have gone through those states.
func (k *talk) ways(client, backend string) {
	k.Helper()
	e := k.end()
	if got := walk(e.Client); got != "SYN-RECEIVED ESTABLISHED "+client {
		k.Errorf("the client's leg went %s, want on %s", got, client)
	}
	if got := walk(e.Backend); got != "SYN-SENT ESTABLISHED "+backend {
		k.Errorf("the backend's leg went %s, want on %s", got, backend)
	}
}

// RFC 9293, 3.6: four segments close it, whoever begins; who was sent our FIN first
// has us in TIME-WAIT.
func TestACarriedConnectionIsClosedByFourSegments(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.closes(6, 6)
		k.ways("CLOSE-WAIT LAST-ACK CLOSED", "FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT")
	})
	bothWays(t, nil, func(k *talk) { // the backend begins, with data
		k.exchange(1, 1)
		c, b := k.client, k.backend
		b.say(lab.FIN|lab.ACK|lab.PSH, 6, 6, "bye")
		c.hearAt("data with FIN", lab.FIN|lab.ACK, 6, 6)
		c.say(lab.ACK, 6, 10, "")
		b.hearAt("an ACK", lab.ACK, 6, 10)
		k.states("FIN-WAIT-2", "CLOSE-WAIT")
		c.say(lab.ACK|lab.PSH, 6, 10, "still here")
		b.hearAt("data", lab.ACK, 6, 10)
		b.say(lab.ACK, 10, 16, "")
		c.hearAt("an ACK", lab.ACK, 10, 16)
		c.say(lab.FIN|lab.ACK, 16, 10, "")
		b.hearAt("FIN", lab.FIN|lab.ACK, 16, 10)
		k.states("FIN-WAIT-2", "LAST-ACK")
		b.say(lab.ACK, 10, 17, "")
		c.hearAt("the last ACK", lab.ACK, 10, 17)
		k.ways("FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT", "CLOSE-WAIT LAST-ACK CLOSED")
		if got := reason(k.end()); got != "first peer (backend)" {
			k.Errorf("it has ended as %s, want the backend's FIN first", got)
		}
		// The client has missed the last ACK.
		c.say(lab.FIN|lab.ACK, 16, 10, "")
		c.hearAt("the last ACK again", lab.ACK, 10, 17)
	})
}

// FINs that cross (RFC 9293, 3.6, figure 13) lead through CLOSING to TIME-WAIT, on
// both legs; each FIN that comes again is acknowledged.
func TestCrossingFINsOfACarriedConnection(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		c, b := k.client, k.backend
		c.say(lab.FIN|lab.ACK, 6, 6, "")
		b.say(lab.FIN|lab.ACK, 6, 6, "")
		b.hearAt("FIN", lab.FIN|lab.ACK, 6, 6)
		c.hearAt("FIN", lab.FIN|lab.ACK, 6, 6)
		c.say(lab.ACK, 7, 7, "")
		b.hearAt("an ACK", lab.ACK, 7, 7)
		b.say(lab.ACK, 7, 7, "")
		c.hearAt("an ACK", lab.ACK, 7, 7)
		if n := k.table.Held(); n != 2 {
			k.Errorf("%d legs are in TIME-WAIT, want both", n)
		}
		k.end()
		k.each(func(p, _ *end) {
			p.say(lab.FIN|lab.ACK, 6, 7, "")
			p.hearAt("an ACK", lab.ACK, 7, 7)
		})
	})
}

// A FIN before its turn is passed on, and counts when what is missing is there.
func TestAFINBeforeItsTurnOfACarriedConnection(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.client.say(lab.FIN|lab.ACK|lab.PSH, 9, 6, "def")
		k.backend.hearAt("FIN", lab.FIN|lab.ACK, 9, 6)
		k.backend.say(lab.ACK, 6, 6, "")
		k.client.hearAt("an ACK", lab.ACK, 6, 6)
		k.states("ESTABLISHED", "FIN-WAIT-1")
		k.client.say(lab.ACK|lab.PSH, 6, 6, "abc")
		k.backend.hearAt("what was missing", lab.ACK, 6, 6)
		k.backend.say(lab.ACK, 6, 13, "")
		k.client.hearAt("an ACK of all", lab.ACK, 6, 13)
		k.states("CLOSE-WAIT", "FIN-WAIT-2")
	})
}

// The last ACK may be lost on either side of us, and the FIN before it.
func TestTheLastACKOfACarriedConnectionIsLost(t *testing.T) {
	t.Parallel()
	halfway := func(k *talk) {
		k.exchange(1, 1)
		k.client.say(lab.FIN|lab.ACK, 6, 6, "")
		k.backend.hear("FIN", lab.FIN|lab.ACK)
		k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
		k.client.hearAt("FIN", lab.FIN|lab.ACK, 6, 7)
		k.states("LAST-ACK", "FIN-WAIT-2")
	}
	bothWays(t, nil, func(k *talk) { // before it reaches us: the client answers the FIN again
		halfway(k)
		k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
		k.client.hearAt("FIN again", lab.FIN|lab.ACK, 6, 7)
		k.client.say(lab.ACK, 7, 7, "")
		k.backend.hearAt("the last ACK", lab.ACK, 7, 7)
		k.ways("CLOSE-WAIT LAST-ACK CLOSED", "FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT")
	})
	bothWays(t, nil, func(k *talk) { // behind us: we answer, for as long as TIME-WAIT lasts from then
		halfway(k)
		k.client.say(lab.ACK, 7, 7, "")
		k.backend.heard = nil
		for range 3 {
			k.clock.Advance(50 * time.Second)
			k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
			k.backend.hearAt("the last ACK again", lab.ACK, 7, 7)
			k.client.silence("after the end")
		}
		k.clock.Advance(59 * time.Second)
		if k.table.Held() != 1 {
			k.Error("TIME-WAIT is over before a minute")
		}
		k.clock.Advance(2 * time.Second)
		if n := k.table.Len(); n != 0 {
			k.Errorf("%d flows are left after TIME-WAIT", n)
		}
	})
	bothWays(t, nil, func(k *talk) { // nor does the client come back: the bound
		halfway(k)
		k.waits(3*time.Minute, 7, 6, k.backend)
		k.backend.hearAt("RST", lab.RST|lab.ACK, 7, 6)
		if e := k.end(); e.Client.Rule != tcpinfo.UserTimeout || e.Age < 75*time.Second || e.Age > 76*time.Second {
			k.Errorf("it has ended by %q after %v, want user_timeout after 75s", e.Client.Rule, e.Age)
		}
	})
}

// TIME-WAIT of a leg is that of any connection: RST, old data and old SYNs end
// nothing; a newer SYN opens a new connection, which nothing of the old one touches.
func TestTimeWaitOfACarriedLeg(t *testing.T) {
	t.Parallel()
	for name, stamped := range map[string]bool{"plain": false, "stamped": true} {
		t.Run(name, func(t *testing.T) {
			k := newTalk(t, tcpinfo.Direct, stamped, nil)
			k.exchange(1, 1)
			c, b := k.client, k.backend
			b.say(lab.FIN|lab.ACK, 6, 6, "")
			c.hear("FIN", lab.FIN|lab.ACK)
			c.say(lab.FIN|lab.ACK, 6, 7, "")
			b.hear("FIN", lab.FIN|lab.ACK)
			b.say(lab.ACK, 7, 7, "")
			c.hear("an ACK", lab.ACK)
			k.end()
			c.say(lab.RST, 7, 0, "")
			c.say(lab.RST|lab.ACK, 7, 7, "")
			c.silence("after a RST")
			c.say(lab.ACK|lab.PSH, 1, 1, "hello")
			c.hearAt("an ACK", lab.ACK, 7, 7)
			c.val -= 100
			c.say(lab.SYN, ^uint32(0), 0, "")
			c.hearAt("an ACK", lab.ACK, 7, 7)
			c.val += 100
			if k.table.Held() != 1 {
				t.Fatal("TIME-WAIT has ended")
			}
			k.clock.Advance(2 * time.Second)
			old := *c
			c.iss, c.val = c.iss+100, c.val+2000
			k.ended = nil
			k.opened()
			for _, s := range []lab.Craft{
				old.craft(lab.FIN|lab.ACK, 6, 7, ""), old.craft(lab.ACK|lab.PSH, 1, 1, "hello"), old.craft(lab.RST, 7, 0, ""), old.craft(lab.FIN|lab.ACK|lab.PSH, 50, 7, "late"),
			} {
				if v := c.send(s); v == frame.Forward {
					t.Errorf("%v of the old connection is passed on", s.Flags)
				}
				c.heard = nil
			}
			b.silence("after segments of the old connection")
			k.states("ESTABLISHED", "ESTABLISHED")
			k.exchange(1, 1)
			k.closes(6, 6)
		})
	}
}

// The bounds of the closing states, each with its reason.
func TestTheBoundsOfTheClosingStatesOfACarriedConnection(t *testing.T) {
	t.Parallel()
	never := func(k *talk) {
		k.policy.UserTimeout, k.policy.Retransmit.MaxRetries, k.policy.Keepalive.Idle = config.Off, 0, config.Off
		k.policy.FinWait1, k.policy.Closing, k.policy.LastAck, k.policy.CloseWait = 20*time.Second, 25*time.Second, 30*time.Second, 35*time.Second
		k.policy.HalfClose = 5 * time.Minute
	}
	fin := func(p *end, o *end, seq, ack uint32) {
		p.say(lab.FIN|lab.ACK, seq, ack, "")
		o.hear("FIN", lab.FIN|lab.ACK)
	}
	acks := func(p *end, o *end, seq, ack uint32) {
		p.say(lab.ACK, seq, ack, "")
		o.hear("an ACK", lab.ACK)
	}
	for _, c := range []struct {
		name            string
		reach           func(k *talk, p, o *end)
		sooner          func(*talk)
		rule, otherRule tcpinfo.Rule // of p's leg and of the other
		after           time.Duration
	}{
		{"FIN-WAIT-1", func(k *talk, p, o *end) { fin(p, o, 6, 6) }, nil, "", tcpinfo.FinWait1, 20 * time.Second},
		{"CLOSE-WAIT", func(k *talk, p, o *end) { fin(p, o, 6, 6); acks(o, p, 6, 7) }, nil, tcpinfo.CloseWait, "", 35 * time.Second},
		{"LAST-ACK", func(k *talk, p, o *end) { fin(p, o, 6, 6); acks(o, p, 6, 7); fin(o, p, 6, 7) }, nil, tcpinfo.LastAck, "", 30 * time.Second},
		{"CLOSING", func(k *talk, p, o *end) { fin(p, o, 6, 6); fin(o, p, 6, 6); acks(p, o, 7, 7) },
			func(k *talk) { never(k); k.policy.FinWait1 = config.Off }, "", tcpinfo.Closing, 25 * time.Second},
	} {
		change := c.sooner
		if change == nil {
			change = never
		}
		t.Run(c.name, func(t *testing.T) {
			for _, turn := range []bool{false, true} {
				bothWays(t, change, func(k *talk) {
					k.exchange(1, 1)
					p, o := k.client, k.backend
					if turn {
						p, o = o, p
					}
					c.reach(k, p, o)
					k.waits(2*time.Minute, 0, 0)
					p.hear("RST", lab.RST|lab.ACK)
					o.hear("RST", lab.RST|lab.ACK)
					e := k.end()
					got := [2]tcpinfo.Rule{e.Client.Rule, e.Backend.Rule}
					want := [2]tcpinfo.Rule{c.rule, c.otherRule}
					if turn {
						want[0], want[1] = want[1], want[0]
					}
					if got != want || e.Age < c.after || e.Age > c.after+500*time.Millisecond {
						k.Errorf("it has ended by %q after %v, want %q after %v", got, e.Age, want, c.after)
					}
				})
			}
		})
	}
	// Half closed, acknowledged, and never answered: half_close, or fin_wait2 without.
	for _, bound := range []struct {
		change func(*talk)
		rule   tcpinfo.Rule
		after  time.Duration
	}{
		{func(k *talk) { k.policy.HalfClose = 100 * time.Second }, tcpinfo.HalfClose, 100 * time.Second},
		{func(k *talk) { k.policy.HalfClose = config.Off }, tcpinfo.FinWait2, 60 * time.Second},
	} {
		bothWays(t, bound.change, func(k *talk) {
			k.exchange(1, 1)
			fin(k.client, k.backend, 6, 6)
			acks(k.backend, k.client, 6, 7)
			for len(k.ended) == 0 && k.live().Age < 10*time.Minute {
				k.waits(30*time.Second, 7, 6, k.client, k.backend)
			}
			k.client.hearAt("RST", lab.RST|lab.ACK, 6, 7)
			k.backend.hearAt("RST", lab.RST|lab.ACK, 7, 6)
			if e := k.end(); e.Backend.Rule != bound.rule || e.Age < bound.after || e.Age > bound.after+500*time.Millisecond {
				k.Errorf("it has ended by %q after %v, want %q after %v", e.Backend.Rule, e.Age, bound.rule, bound.after)
			}
		})
	}
}

// A peer that acknowledges nothing is given up by user_timeout, by its oldest byte,
// or by max_retries if that comes first; the other one is reset, exactly.
func TestAPeerOfACarriedConnectionThatAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	for _, bound := range []struct {
		change func(*talk)
		rule   tcpinfo.Rule
		after  time.Duration
	}{
		{nil, tcpinfo.UserTimeout, 75 * time.Second},
		// 0.2, 0.4, 0.8 and 1.6 s, and the wait for the last one.
		{func(k *talk) { k.policy.Retransmit.MaxRetries, k.policy.Retransmit.MinRTO = 3, 200*time.Millisecond }, tcpinfo.MaxRetries, 3 * time.Second},
	} {
		bothWays(t, bound.change, func(k *talk) {
			k.exchange(1, 1)
			k.clock.Advance(20 * time.Second)
			for len(k.ended) == 0 && k.live().Age < 5*time.Minute {
				k.client.say(lab.ACK|lab.PSH, 6, 6, "who hears this?")
				k.waits(time.Second, 6, 6)
			}
			k.client.hearAt("RST", lab.RST|lab.ACK, 6, 6)
			k.backend.heard = k.backend.heard[len(k.backend.heard)-1:]
			k.backend.hearAt("RST", lab.RST|lab.ACK, 21, 6)
			e := k.end()
			if after := e.Age - 20*time.Second; e.Backend.Rule != bound.rule || after < bound.after || after > bound.after+500*time.Millisecond {
				k.Errorf("it has ended by %q after %v, want %q after %v", e.Backend.Rule, after, bound.rule, bound.after)
			}
		})
	}
}

// A RST passes as a RST that is exact for the other peer, from every state; a peer
// that has missed what was before it says where it is, and is nobody's then.
func TestARSTPassesFromEveryState(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		name     string
		reach    func(k *talk)
		seq, ack uint32 // of the client
	}{
		{"ESTABLISHED", func(*talk) {}, 6, 6},
		{"its FIN was sent", func(k *talk) { k.client.say(lab.FIN|lab.ACK, 6, 6, "") }, 7, 6},
		{"CLOSE-WAIT", func(k *talk) {
			k.client.say(lab.FIN|lab.ACK, 6, 6, "")
			k.backend.say(lab.ACK, 6, 7, "")
		}, 7, 6},
		{"FIN-WAIT-2", func(k *talk) {
			k.backend.say(lab.FIN|lab.ACK, 6, 6, "")
			k.client.say(lab.ACK, 6, 7, "")
		}, 6, 7},
		{"LAST-ACK", func(k *talk) {
			k.client.say(lab.FIN|lab.ACK, 6, 6, "")
			k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
		}, 7, 6},
	} {
		t.Run(p.name, func(t *testing.T) {
			bothWays(t, nil, func(k *talk) {
				k.exchange(1, 1)
				p.reach(k)
				k.client.heard, k.backend.heard = nil, nil
				k.client.say(lab.RST, p.seq, 0, "")
				k.backend.hearAt("RST", lab.RST|lab.ACK, p.seq, p.ack)
				k.client.silence("after its RST")
				if e := k.end(); !e.Client.Died || e.Client.Reset || !e.Backend.Reset || k.table.Len() != 0 {
					k.Errorf("it has ended as %s, client died %v, backend reset %v, %d flows left", reason(e), e.Client.Died, e.Backend.Reset, k.table.Len())
				}
			})
		})
	}
}

// `linger: 0s` resets an idle connection that would be sent FIN else, and `conn
// kill --rst` any.
func TestACarriedConnectionIsAborted(t *testing.T) {
	t.Parallel()
	idle := func(k *talk) { k.settings.IdleTimeout, k.policy.AbortiveClose = 30*time.Second, true }
	bothWays(t, idle, func(k *talk) {
		k.exchange(1, 1)
		k.waits(31*time.Second, 6, 6)
		k.each(func(p, _ *end) { p.hearAt("RST", lab.RST|lab.ACK, 6, 6) })
		if got := reason(k.end()); got != "first us by idle_timeout with RST" {
			k.Errorf("it has ended as %s", got)
		}
	})
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.client.say(lab.ACK|lab.PSH, 6, 6, "under way")
		k.backend.heard = nil
		k.table.End(k.live().Ref, tcpinfo.CarriedEnd{How: "rst", Why: tcpinfo.Killed})
		k.client.hearAt("RST", lab.RST|lab.ACK, 6, 6)
		k.backend.hearAt("RST", lab.RST|lab.ACK, 15, 6)
		if got := reason(k.end()); got != "first us by killed with RST" {
			k.Errorf("it has ended as %s", got)
		}
	})
}

// The urgent pointer counts from the segment's number, so it passes as it is.
func TestUrgentDataPass(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		s := k.client.craft(lab.ACK|lab.PSH|lab.URG, 6, 6, "urgent")
		s.Urgent = 3
		k.client.send(s)
		got := k.backend.hearAt("urgent data", lab.ACK|lab.URG, 6, 6)
		if p := got.Frame[14+20+18:]; p[0] != 0 || p[1] != 3 {
			k.Errorf("the urgent pointer is %d, want 3", int(p[0])<<8|int(p[1]))
		}
	})
}

// `time_wait.max` holds for legs too: the oldest one goes.
func TestTheCapOfTimeWaitCountsCarriedLegs(t *testing.T) {
	t.Parallel()
	k := newTalk(t, tcpinfo.Direct, false, func(k *talk) { k.policy.TimeWait.Max = 2 })
	for n := range 4 {
		k.ended = nil
		if n > 0 {
			k.client.from = netip.AddrPortFrom(talkClient.Addr(), talkClient.Port()+uint16(n))
			k.opened()
		}
		k.exchange(1, 1)
		k.closes(6, 6)
		if got := k.table.Held(); got != min(n+1, 2) {
			t.Errorf("after %d connections %d are in TIME-WAIT, want two at most", n+1, got)
		}
		k.clock.Advance(time.Second)
	}
	k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
	k.backend.hearAt("the ACK of the youngest", lab.ACK, 7, 7)
}

// `conns` lists what both SYNs have agreed on, for each leg.
func TestTheOptionsOfACarriedConnectionAreListed(t *testing.T) {
	t.Parallel()
	for name, stamped := range map[string]bool{"plain": false, "stamped": true} {
		t.Run(name, func(t *testing.T) {
			for _, by := range []tcpinfo.Carrier{tcpinfo.Direct, tcpinfo.Splice} {
				k := newTalk(t, by, stamped, nil)
				want := tcpinfo.Options{Seen: true, SndMSS: 1460, RcvMSS: 1460, SndScale: 7, RcvScale: 7, Timestamps: stamped}
				if c := k.live(); c.Client.Life.Options != want || c.Backend.Life.Options != want {
					t.Errorf("%s: agreed on are %+v and %+v, want %+v", by, c.Client.Life.Options, c.Backend.Life.Options, want)
				}
			}
		})
	}
}
