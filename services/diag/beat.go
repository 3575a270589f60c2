package diag

import (
	"time"

	"github.com/lastack/lastack/services"
)

// voice is the pipe to the client.
func (t *talk) voice() *services.Pipe {
	if t.in.To != nil {
		return &t.in
	}
	return &t.out
}

// utter writes what the client has not taken yet of a heartbeat, and reports
// whether the talk lives.
func (t *talk) utter(now time.Duration) bool {
	if !t.out.Holds() {
		return true
	}
	m := t.out.Flush(t.Loop())
	return t.went(now, 0, false, m.Err)
}

// ask asks a client that has been quiet for too long whether it lives, or ends
// the talk with one that has not answered.
func (t *talk) ask(now time.Duration) {
	beat := t.Client.Beat
	if beat == nil {
		return
	}
	due, again := beat.Look(now, t.Moved())
	switch {
	case due == services.DueDead:
		t.Because(services.ClientHeartbeat, "no answer to the heartbeat in time")
		t.drop()
		t.Abort(now, services.ClientHeartbeat, services.First{Who: "client", How: services.ByTimeout})
		return
	case due == services.DueAsk && services.MayAsk(&t.Client, &t.in, t.voice()):
		var err error
		if again, err = beat.Ask(t.Loop(), t.voice(), now); err != nil {
			t.went(now, 0, false, err)
			return
		}
	}
	t.ArmBy(again)
}
