package flow_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// RFC 9293, 3.5.2: a RST is not answered. A backend that has said nothing gets
// one: it may have taken our SYN.
func TestOnlyASilentBackendIsTold(t *testing.T) {
	k := stillTalk(t, tcpinfo.Direct, nil)
	k.opens()
	k.backend.say(lab.RST|lab.ACK, 0, 1, "")
	k.backend.silence("after its RST")
	k.client.hear("a RST: no attempt is left", lab.RST|lab.ACK)
	k.missed(tcpinfo.Refused)

	for rule, c := range map[tcpinfo.Rule]struct {
		retries int
		within  time.Duration
	}{tcpinfo.ConnectTimeout: {2, 6 * time.Second}, tcpinfo.SynRetries: {1, 4 * time.Second}} {
		k = stillTalk(t, tcpinfo.Direct, func(k *talk) { k.policy.Retransmit.SynRetries = c.retries })
		syn := k.opens()
		if timers := k.live().Backend.Info.Timers; len(timers) != 1 || timers[0].Name != rule {
			t.Errorf("the timer of an attempt is %v, want that of %s", timers, rule)
		}
		k.clock.Advance(c.within)
		if s := k.backend.hear("a RST", lab.RST); s.Seq != syn.Seq+1 {
			t.Errorf("it has number %d, want the one behind our SYN, %d", s.Seq, syn.Seq+1)
		}
		k.client.hear("a RST: no attempt is left", lab.RST|lab.ACK)
		k.missed(rule)
	}
}

// missed wants the connection to have ended by a rule for a backend's fault.
func (k *talk) missed(rule tcpinfo.Rule) {
	k.Helper()
	e := k.end()
	if e.FirstBy != rule || !e.View.Connecting || e.Client.Died || !e.Client.Reset || e.Last != ductBackend {
		k.Errorf("it ended by %q, want %q and %v as the last backend: %+v", e.FirstBy, rule, ductBackend, e)
	}
}

// RFC 9293, 3.9.2.2: an ICMP error that says that there is nobody ends an attempt
// at once, as it ends a dial of the stack's; one that says that the way is
// lost does not, nor one about a SYN that was never sent.
func TestAnUnreachablePortEndsADirectAttempt(t *testing.T) {
	t.Parallel()
	router := netip.MustParseAddr("10.0.0.254")
	second := netip.AddrPortFrom(ductBackend.Addr(), 8081)
	for _, code := range []byte{2, 3, 9, 10, 13} {
		k := stillTalk(t, tcpinfo.Direct, func(k *talk) {
			k.choices = []netip.AddrPort{ductBackend, second}
			k.settings.ConnectRetries = 1
		})
		k.way(second)
		syn := k.opens()
		about := lab.Craft{SrcMAC: farMAC, DstMAC: k.backend.mac, Src: syn.Src, Dst: syn.Dst, Flags: lab.SYN, Seq: syn.Seq}
		foreign := about
		foreign.Seq += 5
		k.backend.card.Inbound(asFrame(foreign.Unreachable(router, code, 0)))
		for _, soft := range []byte{0, 1, 5, 11, 12} {
			k.backend.card.Inbound(asFrame(about.Unreachable(router, soft, 0)))
		}
		if len(k.tried) > 0 {
			t.Fatalf("soft errors, or one about nothing, have ended an attempt: %v", k.tried)
		}
		k.backend.from = second
		k.backend.card.Inbound(asFrame(about.Unreachable(router, code, 0)))
		if len(k.tried) != 1 || k.tried[0] != syscall.ECONNREFUSED {
			t.Errorf("code %d: the attempts that have ended are %v, want one refused", code, k.tried)
		}
		next := k.backend.hear("the next backend's SYN", lab.SYN)
		k.backend.to, k.backend.irs = next.Src, next.Seq
		k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
		k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
		k.client.say(lab.ACK, 1, 1, "")
		k.backend.hearAt("an ACK", lab.ACK, 1, 1)
		k.backend.card.Inbound(asFrame(lab.Craft{SrcMAC: farMAC, DstMAC: k.backend.mac, Src: next.Src, Dst: second, Flags: lab.ACK, Seq: next.Seq + 1}.Unreachable(router, code, 0)))
		k.exchange(1, 1)
	}
}

// `syn_retries` bounds an attempt and how often our SYN is repeated in it; the
// client, which waits for a backend, is not to blame for how long that takes.
func TestSYNRetriesBoundADirectAttempt(t *testing.T) {
	t.Parallel()
	k := stillTalk(t, tcpinfo.Direct, func(k *talk) {
		k.policy.Retransmit.SynRetries = 1
		k.settings.ConnectTimeout, k.settings.ConnectRetries = time.Minute, 9
	})
	var syns []time.Duration
	at := func() time.Duration {
		return k.clock.NowMonotonic().Sub(tcpip.MonotonicTime{}).Round(100 * time.Millisecond)
	}
	begin := at()
	k.client.say(lab.SYN, 0, 0, "")
	for range 120 {
		k.clock.Advance(100 * time.Millisecond)
		for len(k.backend.heard) > 0 {
			s, _ := k.backend.next()
			if s.Flags == lab.SYN {
				syns = append(syns, at()-begin)
				k.backend.to, k.backend.irs = s.Src, s.Seq
			}
		}
		if (at()-begin)%(500*time.Millisecond) == 0 {
			k.client.say(lab.SYN, 0, 0, "")
		}
		k.way(ductBackend) // one that is silent is forgotten
	}
	// Two for each attempt of three seconds.
	if len(syns) < 8 || len(syns) > 10 {
		t.Errorf("in twelve seconds there were SYNs at %v, want two for each of four attempts", syns)
	}
	k.client.silence("while it waits")
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
	k.clock.Advance(2500 * time.Millisecond) // now its time begins
	k.client.silence("before its bound")
	k.clock.Advance(time.Second)
	k.client.hear("RST", lab.RST|lab.ACK)
	if e := k.end(); e.Client.Rule != tcpinfo.SynRetries {
		t.Errorf("it has ended by %q, want %q", e.Client.Rule, tcpinfo.SynRetries)
	}
}
