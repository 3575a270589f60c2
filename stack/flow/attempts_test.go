package flow_test

import (
	"testing"
	"time"

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
	if e := k.end(); e.Client.Rule != tcpinfo.Refused {
		t.Errorf("it ended by %q, want %q", e.Client.Rule, tcpinfo.Refused)
	}

	k = stillTalk(t, tcpinfo.Direct, nil)
	syn := k.opens()
	k.clock.Advance(6 * time.Second)
	if s := k.backend.hear("a RST", lab.RST); s.Seq != syn.Seq+1 {
		t.Errorf("it has number %d, want the one behind our SYN, %d", s.Seq, syn.Seq+1)
	}
	k.client.hear("a RST: no attempt is left", lab.RST|lab.ACK)
	if e := k.end(); e.Client.Rule != tcpinfo.ConnectTimeout {
		t.Errorf("it ended by %q, want %q", e.Client.Rule, tcpinfo.ConnectTimeout)
	}
}
