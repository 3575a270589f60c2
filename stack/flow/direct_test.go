package flow_test

import (
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/netif/frame"
)

// shaking is a direct connection whose client has been sent the SYN-ACK.
func shaking(t *testing.T) *talk {
	t.Helper()
	k := stillTalk(t, tcpinfo.Direct, nil)
	k.opens()
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
	k.states("SYN-RECEIVED", "ESTABLISHED")
	return k
}

// RFC 5961, 3.2 and 4.2, RFC 9293, 3.10.7.4 in SYN-RECEIVED: what is not acceptable
// is answered, passes nothing on and ends no handshake.
func TestWhatIsUnacceptableInADirectHandshakeIsAnswered(t *testing.T) {
	t.Parallel()
	k := shaking(t)
	c := k.client
	for _, s := range []lab.Craft{
		c.craft(lab.RST, 100, 0, ""), c.craft(lab.SYN, 7777, 0, ""), c.craft(lab.ACK, 1<<20, 1, "evil"), c.craft(lab.ACK, 0, 1, ""),
	} {
		if v := c.send(s); v != frame.Reply {
			t.Errorf("%v at %d: verdict %d, want an answer", s.Flags, s.Seq-c.iss, v)
			continue
		}
		c.hearAt("a challenge", lab.ACK, 1, 1)
	}
	c.say(lab.RST, 1<<20, 0, "")
	c.say(lab.SYN|lab.ACK, 0, 1, "")
	c.say(lab.PSH, 1, 0, "evil")
	c.silence("after a RST outside of the window and what has no place")
	c.say(lab.ACK, 1, 77, "")
	if s := c.hear("a RST", lab.RST); s.Seq != c.irs+77 {
		t.Errorf("a wrong ACK gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	k.backend.silence("after what is not acceptable")
	c.say(lab.ACK, 1, 1, "")
	k.backend.hearAt("the ACK", lab.ACK, 1, 1)
	k.exchange(1, 1)
}

// A client that begins anew from the same port finds out at once that we know an
// earlier SYN (RFC 9293, 3.5.1), answers with an exact RST, and is connected by its
// next SYN.
func TestAClientThatBeginsAnewIsConnected(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{false, true} {
		k := stillTalk(t, tcpinfo.Direct, nil)
		k.opens()
		if answered {
			k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
			k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
		}
		old := *k.client
		k.client.iss += 123_456
		k.client.say(lab.SYN, 0, 0, "")
		challenge := k.client.hear("a challenge", lab.ACK)
		if challenge.Ack != old.iss+1 {
			t.Errorf("it acknowledges %d, want the old SYN, %d", challenge.Ack-old.iss, 1)
		}
		reset := k.client.craft(lab.RST, 0, 0, "")
		reset.Seq = challenge.Ack
		k.client.send(reset)
		told := k.backend.hear("a RST", map[bool]lab.Flags{false: lab.RST, true: lab.RST | lab.ACK}[answered])
		if told.Seq != k.backend.irs+1 {
			t.Errorf("it has number %d, want 1", told.Seq-k.backend.irs)
		}
		if e := k.end(); reason(e) != "first peer (client) with RST" {
			t.Errorf("the first one has ended as %s", reason(e))
		}
		k.opened()
		k.exchange(1, 1)
	}
}

// RFC 9293, 3.10.7.3: a backend that remembers an old connection gets RST, and our
// SYN again; RFC 5961, 7: not without bound.
func TestABackendThatRemembersAnOldConnectionForgetsIt(t *testing.T) {
	t.Parallel()
	k := stillTalk(t, tcpinfo.Direct, nil)
	syn := k.opens()
	k.backend.say(lab.ACK, 500, 77, "")
	if s := k.backend.hear("a RST", lab.RST); s.Seq != syn.Seq+77 {
		t.Errorf("a wrong ACK gets %v, want <SEQ=SEG.ACK><CTL=RST>", s)
	}
	if s := k.backend.hear("the SYN again", lab.SYN); s.Seq != syn.Seq {
		t.Errorf("the second SYN has number %d, the first %d", s.Seq, syn.Seq)
	}
	for range 500 {
		k.backend.say(lab.ACK, 500, 77, "")
	}
	if n := len(k.backend.heard); n > 40 {
		t.Errorf("500 wrong ACKs get %d answers", n)
	}
	k.backend.heard = nil
	k.clock.Advance(time.Second)
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.client.irs = k.client.hear("a SYN-ACK", lab.SYN|lab.ACK).Seq
	k.client.say(lab.ACK, 1, 1, "")
	k.backend.hearAt("the ACK", lab.ACK, 1, 1)
	k.exchange(1, 1)
}

// A SYN-ACK may have data (RFC 9293, 3.10.7.3, fourth check): they pass, and the ACK
// that ends the handshake may be of them or not.
func TestASYNACKWithDataPasses(t *testing.T) {
	t.Parallel()
	for _, taken := range []uint32{0, 3} {
		k := stillTalk(t, tcpinfo.Direct, nil)
		k.opens()
		k.backend.say(lab.SYN|lab.ACK, 0, 1, "220")
		s := k.client.hear("a SYN-ACK", lab.SYN|lab.ACK)
		if k.client.irs = s.Seq; string(s.Payload) != "220" {
			t.Errorf("it has %q, want 220", s.Payload)
		}
		k.client.say(lab.ACK, 1, 1+taken, "")
		k.backend.hearAt("an ACK", lab.ACK, 1, 1+taken)
		k.states("ESTABLISHED", "ESTABLISHED")
		if taken == 0 {
			k.backend.say(lab.ACK, 1, 1, "220")
			k.client.hearAt("data", lab.ACK, 1, 1)
			k.client.say(lab.ACK, 1, 4, "")
			k.backend.hearAt("an ACK", lab.ACK, 1, 4)
		}
		k.exchange(1, 4)
	}
}

// What is lost of a handshake comes again: the client's SYN becomes ours again, a
// backend's SYN-ACK passes until the client has acknowledged it, and is acknowledged
// by us if that ACK was lost behind us.
func TestALostSegmentOfADirectHandshakeComesAgain(t *testing.T) {
	t.Parallel()
	k := stillTalk(t, tcpinfo.Direct, nil)
	first := k.opens()
	if again := k.opens(); again.Seq != first.Seq || again.Src != first.Src {
		t.Errorf("the SYN comes again as %v, it was %v", again, first)
	}
	for range 2 {
		k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
		s := k.client.hear("a SYN-ACK", lab.SYN|lab.ACK)
		if k.client.irs != 0 && s.Seq != k.client.irs {
			t.Errorf("the SYN-ACK comes again with number %d, it had %d", s.Seq, k.client.irs)
		}
		k.client.irs = s.Seq
	}
	k.opens() // the client has missed both
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.client.hear("a SYN-ACK", lab.SYN|lab.ACK)
	k.client.say(lab.ACK, 1, 1, "")
	k.backend.hearAt("an ACK", lab.ACK, 1, 1)
	k.backend.say(lab.SYN|lab.ACK, 0, 1, "")
	k.backend.hearAt("the ACK again", lab.ACK, 1, 1)
	if l := k.live(); l.Backend.Life.SynRetrans != 2 {
		t.Errorf("%d SYNs were sent again, want 2", l.Backend.Life.SynRetrans)
	}
	k.exchange(1, 1)
}

// Of a client's ACK and first bytes nothing has come: what follows ends the handshake
// as well (RFC 9293, 3.10.7.4, fifth check), and the backend's.
func TestWhateverAcknowledgesASYNACKEndsADirectHandshake(t *testing.T) {
	t.Parallel()
	k := shaking(t)
	k.client.say(lab.ACK|lab.PSH, 6, 1, "world")
	k.backend.hearAt("the second part", lab.ACK, 6, 1)
	k.states("ESTABLISHED", "ESTABLISHED")
	k.backend.say(lab.ACK, 1, 1, "")
	k.client.hearAt("an ACK", lab.ACK, 1, 1)
	k.client.say(lab.ACK|lab.PSH, 1, 1, "hello")
	k.backend.hearAt("the first part", lab.ACK, 1, 1)
	k.backend.say(lab.ACK, 1, 11, "")
	k.client.hearAt("an ACK of both", lab.ACK, 1, 11)
	k.exchange(11, 1)
}
