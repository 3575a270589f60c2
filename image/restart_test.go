package image_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
)

// On a box a card's settings change over SSH: the confined appliance begins anew in its own process. A power cut before
// the change is confirmed takes it back, and one afterwards does not.
func TestACardChangesOnABoxByARestart(t *testing.T) {
	long(t)
	r := boot(t, image.AMD64, nil)
	r.serves(t)
	first := r.run(t, "config show")
	next := strings.Replace(first, "eth0: {", "eth0: {mtu: 1400, ", 1)
	if next == first {
		t.Fatalf("the configuration has no place for a change:\n%s", first)
	}
	pid := r.pid(t)

	r.restart(t, "config apply --restart --confirm 1h -", next)
	if got := r.run(t, "config show"); got != next || r.pid(t) != pid {
		t.Errorf("process %d, want %d, is tried with\n%s", r.pid(t), pid, got)
	}
	r.powerCut(t)
	r.powerOn(t)
	r.expect(t, `the change by apply is taken back: the appliance has ended before it was kept`)
	r.serves(t)
	if got := r.run(t, "config show"); got != first {
		t.Errorf("what nobody has confirmed is in force after a power cut:\n%s", got)
	}

	r.restart(t, "config apply --restart --confirm 1h -", next)
	r.run(t, "config confirm")
	r.powerCut(t)
	r.powerOn(t)
	r.serves(t)
	if got := r.run(t, "config show"); got != next {
		t.Errorf("what was confirmed is not in force after a power cut:\n%s", got)
	}
	if got := r.history(t); len(got) < 2 {
		t.Errorf("the history has the numbers %v", got)
	}
	if strings.Contains(r.Console(), "taken back") {
		t.Error("what was confirmed is called taken back")
	}
}

// restart has a change come by a restart, and waits until the box serves again.
func (r *rig) restart(t *testing.T, command, text string) {
	t.Helper()
	c := r.login(t)
	defer c.Close()
	s := session(t, c)
	s.Stdin = strings.NewReader(text)
	if out, err := s.CombinedOutput(command); err != nil || !strings.Contains(string(out), "to come by a restart, within") {
		t.Fatalf("%s: %v, %s", command, err, out)
	}
	r.expect(t, `all is drained: starting again`)
	r.expect(t, `ready .*config=`)
	if got, _ := r.get(t, "/again"); got != "backend: /again" {
		t.Fatalf("got %q through the box", got)
	}
}

// pid is the appliance's process.
func (r *rig) pid(t *testing.T) int {
	t.Helper()
	var s struct{ PID int }
	if err := json.Unmarshal([]byte(r.run(t, "status --json")), &s); err != nil {
		t.Fatal(err)
	}
	return s.PID
}
