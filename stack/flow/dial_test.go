package flow_test

import (
	"net/netip"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// dialled is a SYN of the stack's to the backend.
func dialled(t *testing.T, stamped bool) (k *talk, b *end) {
	t.Helper()
	k = stillTalk(t, tcpinfo.Splice, nil)
	b = k.backend
	b.irs, b.to, b.ts = 8_000_000, netip.AddrPortFrom(ductOwn, talkPort), stamped
	b.stack(lab.SYN, 0, 0)
	k.table.Adopt(b.to, b.from, 22, "test", false)
	return k, b
}

// dialledLife wants the connection to be in a state, and tells of it.
func (k *talk) dialledLife(state string) tcpinfo.Life {
	k.Helper()
	b := k.backend
	if got, ok := k.table.State(b.to, b.from, 22); !ok || got.String() != state {
		k.Errorf("it is %v, want %s", got, state)
	}
	life, _ := k.table.Life(b.to, b.from, 22)
	return life
}

// A SYN-ACK that has passed may be lost before the stack: until the stack has
// acknowledged one, each is for the stack. An ACK of the table's would end the
// backend's handshake, and it answers no SYN after that.
func TestASYNACKIsTheStacksToAnswerUntilItHasTakenOne(t *testing.T) {
	t.Parallel()
	for _, stamped := range []bool{false, true} {
		k, b := dialled(t, stamped)
		for range 3 {
			b.passes(lab.SYN|lab.ACK, 0, 1)
		}
		b.stack(lab.SYN, 0, 0) // it has taken none
		b.passes(lab.SYN|lab.ACK, 0, 1)
		b.silence("before the stack has answered")
		k.dialledLife("SYN-SENT")
		b.stack(lab.ACK, 1, 1)
		k.dialledLife("ESTABLISHED")
		b.say(lab.SYN|lab.ACK, 0, 1, "") // our ACK was lost
		b.hearAt("the ACK again", lab.ACK, 1, 1)
	}
}

// A SYN that is repeated while its SYN-ACK waits for the stack leaves no trace: what
// both have agreed to counts when the stack has taken it.
func TestASYNThatCrossesItsAnswerChangesNothing(t *testing.T) {
	t.Parallel()
	for _, stamped := range []bool{false, true} {
		k, b := dialled(t, stamped)
		b.passes(lab.SYN|lab.ACK, 0, 1)
		b.stack(lab.SYN, 0, 0)
		b.stack(lab.ACK, 1, 1)
		life := k.dialledLife("ESTABLISHED")
		if o := life.Options; o.SndScale != 7 || o.RcvScale != 7 || o.Timestamps != stamped || !o.Seen || life.SynRetrans != 1 {
			t.Errorf("agreed is %+v after %d more SYNs, want scales of 7 and timestamps %v after one", o, life.SynRetrans, stamped)
		}
		if v := b.say(lab.ACK, 1, 1, "hello"); v != 0 {
			t.Errorf("data: verdict %d, want it to pass", v)
		}
		b.say(lab.SYN, 500, 0, "")
		if s := b.hearAt("a challenge", lab.ACK, 1, 1); s.Win != 40_000 {
			t.Errorf("it offers %d, want the 40,000 of the last ACK", s.Win)
		}
	}
}

// RFC 9293, 3.10.7.3: in SYN-SENT what has no SYN opens nothing and ends nothing,
// but for a RST with an ACK of our SYN. It counts for nothing later either.
func TestWhatAnswersNoSYNLeavesNoTrace(t *testing.T) {
	t.Parallel()
	k, b := dialled(t, false)
	for _, flags := range []lab.Flags{lab.FIN, lab.FIN | lab.ACK, lab.ACK, lab.RST} {
		for _, seq := range []uint32{0, 1} {
			b.say(flags, seq, 1, "")
		}
	}
	b.passes(lab.SYN|lab.ACK, 0, 1)
	b.stack(lab.ACK, 1, 1)
	if life := k.dialledLife("ESTABLISHED"); life.RstReceived || life.PeerFin || life.FinFirst != "" {
		t.Errorf("it is told that the backend has finished or reset it: %+v", life)
	}
	k, b = dialled(t, false)
	b.passes(lab.RST|lab.ACK, 0, 1)
	if life := k.dialledLife("SYN-SENT"); !life.RstReceived {
		t.Error("a refusal is not noted")
	}
}
