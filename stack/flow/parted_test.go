package flow_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// parts has the table send FIN to both peers.
func (k *talk) parts() {
	k.Helper()
	how := tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Drained, Patience: time.Second, Grace: 20 * time.Second}
	if !k.table.End(k.live().Ref, how) {
		k.Fatal("nothing is there to part")
	}
	k.client.hearAt("our FIN", lab.FIN|lab.ACK, 6, 6)
	k.backend.hearAt("our FIN", lab.FIN|lab.ACK, 6, 6)
}

// A peer that has ended in order may still reset what comes late, our FIN that was
// sent twice: in TIME-WAIT that is nothing (RFC 1337), nor is it the other peer's
// affair, who has time to end in order.
func TestALateRSTOfAPeerThatHasEndedDoesNotResetTheOther(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.parts()
		k.client.say(lab.FIN|lab.ACK, 6, 7, "")
		k.client.hearAt("its FIN's ACK", lab.ACK, 7, 7)
		k.states("TIME-WAIT", "FIN-WAIT-1")
		k.client.say(lab.RST, 7, 0, "")
		k.client.say(lab.RST|lab.ACK, 7, 7, "")
		k.client.silence("after its RST")
		k.backend.silence("after the client's RST")
		k.states("TIME-WAIT", "FIN-WAIT-1")
		k.client.say(lab.FIN|lab.ACK, 6, 7, "")
		k.client.hearAt("its FIN's ACK again", lab.ACK, 7, 7)
		k.backend.say(lab.FIN|lab.ACK, 6, 7, "")
		k.backend.hearAt("its FIN's ACK", lab.ACK, 7, 7)
		if e := k.end(); e.Client.Reset || e.Backend.Reset || e.Client.Died || reason(e) != "first us by drained" {
			k.Errorf("it has ended as %s, client reset %v and died %v, backend reset %v; want all in order", reason(e), e.Client.Reset, e.Client.Died, e.Backend.Reset)
		}
		if n := k.table.Held(); n != 2 {
			k.Errorf("%d legs are in TIME-WAIT, want both", n)
		}
	})
}

// A peer that has taken our FIN and has not ended asks now and then whether we are
// there. We are.
func TestAPartedPeerHasItsProbesAnswered(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.parts()
		k.each(func(p, o *end) {
			p.say(lab.ACK, 6, 7, "")
			p.silence("after the ACK of our FIN")
			p.say(lab.ACK, 5, 7, "")
			p.hearAt("the answer to its probe", lab.ACK, 7, 6)
			p.say(lab.ACK, 5, 7, "\x00")
			p.hearAt("the answer to its probe of a byte", lab.ACK, 7, 6)
			o.silence("while the other one probes")
		})
		k.states("FIN-WAIT-2", "FIN-WAIT-2")
		k.waits(21*time.Second, 6, 7)
		k.client.hearAt("RST: the grace is over", lab.RST|lab.ACK, 7, 6)
		k.backend.hearAt("RST: the grace is over", lab.RST|lab.ACK, 7, 6)
	})
}

// Old segments mean as little to a peer that is answered alone.
func TestAnOldFINDoesNotEndAPartedPeer(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		k.parts()
		k.each(func(p, o *end) {
			for _, seq := range []uint32{1, 5, ^uint32(0) - 1000} {
				p.say(lab.FIN|lab.ACK, seq, 7, "")
				p.hearAt("an ACK", lab.ACK, 7, 6)
			}
			o.silence("after old FINs of the other")
		})
		k.states("FIN-WAIT-1", "FIN-WAIT-1")
		k.client.say(lab.FIN|lab.ACK, 6, 7, "")
		k.client.hearAt("its FIN's ACK", lab.ACK, 7, 7)
		k.backend.say(lab.ACK|lab.PSH, 6, 7, "what nobody reads")
		k.backend.hearAt("an ACK", lab.ACK, 7, 23)
		k.backend.say(lab.FIN|lab.ACK, 23, 7, "")
		k.backend.hearAt("its FIN's ACK", lab.ACK, 7, 24)
		if e := k.end(); e.Client.Reset || e.Backend.Reset {
			k.Errorf("it has ended as %s, client reset %v, backend reset %v, want two FINs", reason(e), e.Client.Reset, e.Backend.Reset)
		}
	})
}

// A connection that is to end in a quiet moment has its windows closed. What was
// under way then still passes, however much of it there is.
func TestWhatIsUnderWayWhenAConnectionIsToEndPasses(t *testing.T) {
	t.Parallel()
	bothWays(t, nil, func(k *talk) {
		k.exchange(1, 1)
		c, b := k.client, k.backend
		c.say(lab.ACK|lab.PSH, 6, 6, "hello")
		b.hear("data", lab.ACK)
		how := tcpinfo.CarriedEnd{How: "fin", Why: tcpinfo.Drained, Patience: time.Minute, Grace: 20 * time.Second}
		if !k.table.End(k.live().Ref, how) {
			k.Fatal("nothing is there to end")
		}
		b.say(lab.ACK, 6, 6, "")
		if s := c.hearAt("an ACK", lab.ACK, 6, 6); s.Win != 0 {
			k.Errorf("the client is told of a window of %d, want none", s.Win)
		}
		for _, seq := range []uint32{200_011, 3_000_011} {
			c.say(lab.ACK|lab.PSH, seq, 6, "hello")
			b.hearAt("what was under way", lab.ACK, seq, 6)
		}
		c.silence("after what was under way")
		b.say(lab.ACK, 6, 3_000_016, "")
		c.hearAt("our FIN", lab.FIN|lab.ACK, 6, 3_000_016)
		b.hearAt("our FIN", lab.FIN|lab.ACK, 3_000_016, 6)
	})
}

// The ports of a client that is through are its own again, though the backend has
// not ended yet, as they are after a relayed connection; not if the policy says
// never, and not for an old SYN.
func TestAClientThatIsThroughComesAgainWithItsPorts(t *testing.T) {
	t.Parallel()
	for _, reuse := range []string{"newer-syn", "never"} {
		for name, stamped := range map[string]bool{"plain": false, "stamped": true} {
			t.Run(reuse+"/"+name, func(t *testing.T) {
				k := newTalk(t, tcpinfo.Direct, stamped, func(k *talk) { k.policy.TimeWait.Reuse = reuse })
				c, b := k.client, k.backend
				k.exchange(1, 1)
				k.parts()
				c.say(lab.FIN|lab.ACK, 6, 7, "")
				c.hearAt("its FIN's ACK", lab.ACK, 7, 7)
				b.say(lab.ACK, 6, 7, "")
				k.states("TIME-WAIT", "FIN-WAIT-2")
				c.val -= 100
				c.say(lab.SYN, ^uint32(100), 0, "")
				c.hearAt("an ACK", lab.ACK, 7, 7)
				c.val += 100
				k.clock.Advance(time.Second)
				c.iss, c.val = c.iss+1000, c.val+1000
				if reuse == "never" {
					c.say(lab.SYN, 0, 0, "")
					c.hear("an ACK", lab.ACK)
					b.silence("while the ports are not free")
					return
				}
				c.say(lab.SYN, 0, 0, "")
				b.hearAt("RST", lab.RST|lab.ACK, 7, 6)
				syn := b.hear("a SYN", lab.SYN)
				b.to, b.irs = syn.Src, syn.Seq
				if e := k.end(); !e.Backend.Reset || e.Client.Reset || reason(e) != "first us by drained" {
					t.Errorf("the first one has ended as %s, client reset %v, backend reset %v", reason(e), e.Client.Reset, e.Backend.Reset)
				}
				b.say(lab.SYN|lab.ACK, 0, 1, "")
				c.irs = c.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
				c.say(lab.ACK, 1, 1, "")
				b.hearAt("an ACK", lab.ACK, 1, 1)
				k.exchange(1, 1)
			})
		}
	}
}
