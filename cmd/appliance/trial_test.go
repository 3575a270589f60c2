package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tries is a rig whose configurations need a restart: they differ in the address of
// wan0, and their own file has .10.
type tries struct {
	*rig
	p    *process
	next string
}

// newTries starts a rig. A busy connection holds up its stop for an hour, a restart not.
func newTries(t *testing.T, finGrace string) *tries {
	r := &tries{rig: newRig(t, nil)}
	r.next = filepath.Join(r.dir, "next.yaml")
	r.write(r.file, r.text("192.0.2.10", finGrace))
	r.write(r.next, r.text("192.0.2.11", finGrace))
	r.p = r.start()
	return r
}

func (r *tries) text(addr, finGrace string) string {
	return strings.Replace(interfacesYAML, "192.0.2.10", addr, 1) + "services: {echo: {type: echo, listen: \"wan0:7\"}}\n" +
		"drain: {deadline: 1h, max: 2h, profiles: {upgrade: {deadline: 100ms, fin_grace: " + finGrace + ", max: 30s}}}\n" +
		"admin: {socket: " + r.socket + "}\n"
}

func (r *tries) write(file, text string) {
	r.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// says runs a command, which must say something.
func (r *tries) says(want string, args ...string) {
	r.t.Helper()
	stdout, stderr, code := r.run(args...)
	if code != exitOK || !strings.Contains(stdout, want) {
		r.t.Fatalf("%v: status %d, %s%s; want %q", args, code, stdout, stderr, want)
	}
}

// refuses runs a command, which must fail with these words.
func (r *tries) refuses(want string, args ...string) {
	r.t.Helper()
	stdout, stderr, code := r.run(args...)
	if code == exitOK || !strings.Contains(stderr, want) {
		r.t.Errorf("%v: status %d, %s%s; want %q", args, code, stdout, stderr, want)
	}
}

// fileHas checks the address in the appliance's own file.
func (r *tries) fileHas(addr string) {
	r.t.Helper()
	if text, err := os.ReadFile(r.file); err != nil || !strings.Contains(string(text), addr) {
		r.t.Errorf("the appliance's file has no %s, %v:\n%s", addr, err, text)
	}
}

// answers reports whether echo does at an address.
func (r *tries) answers(addr string) bool {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	c, err := r.client.Dial(ctx, "tcp", addr+":7")
	if err != nil {
		return false
	}
	defer c.Close()
	exchange(r.t, c, "hello\n", "hello\n")
	return true
}

// comes waits until the appliance is ready for the nth time, in the same process, and
// serves at an address and not at the other.
func (r *tries) comes(n int, addr string) {
	r.t.Helper()
	eventually(r.t, 20*time.Second, "it is ready again", func() bool { return strings.Count(r.p.log.String(), "INF ready") == n })
	other := map[string]string{"192.0.2.10": "192.0.2.11", "192.0.2.11": "192.0.2.10"}[addr]
	if !r.answers(addr) || r.answers(other) {
		r.t.Fatalf("it does not serve at %s alone", addr)
	}
	s, err := r.admin.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if s.PID != r.p.cmd.Process.Pid {
		r.t.Errorf("process %d serves, want %d", s.PID, r.p.cmd.Process.Pid)
	}
}

// nothingWaits checks that no later start finds anything to try.
func (r *tries) nothingWaits() {
	r.t.Helper()
	if _, err := os.Stat(trialPath(filepath.Join(r.dir, "nic"))); !os.IsNotExist(err) {
		r.t.Errorf("something lies there to be tried: %v", err)
	}
}

// ends stops it by a signal.
func (r *tries) ends(how syscall.Signal) {
	r.t.Helper()
	r.p.signal(how)
	if code := r.p.end(20 * time.Second); how == syscall.SIGTERM && code != exitOK {
		r.t.Errorf("exit status %d", code)
	}
}

func TestAnAddressChangesByARestartInTheSameProcess(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "before\n", "before\n")
	r.refuses("interfaces.wan0.addresses changes, which needs a restart: say --restart", "config", "apply", r.next)
	exchange(t, c, "still\n", "still\n")
	saw := polite(t, c)
	r.says("to come by a restart, within 30s", "config", "apply", "--restart", r.next)
	if err := <-saw; err != nil {
		t.Errorf("the client saw %v, want FIN", err)
	}
	r.comes(2, "192.0.2.11")
	contains(t, "the log", r.p.log.String(), "INF drained clean=1 reset=0 unacked=0")
	r.fileHas("192.0.2.11")
	r.nothingWaits()
	r.says("apply", "config", "history", "2")

	// What needs no restart comes without.
	r.write(r.next, strings.Replace(r.text("192.0.2.11", "2s"), "wan0:7\"", "wan0:7\", max_conns: 9", 1))
	r.says("1 change in force", "config", "apply", r.next, "--restart")
	r.comes(2, "192.0.2.11")
	r.says("nothing changes", "config", "apply", r.next, "--restart")

	r.refuses("say --restart", "config", "rollback", "1")
	r.says("to come by a restart", "config", "rollback", "1", "--restart")
	r.comes(3, "192.0.2.10")
	r.fileHas("192.0.2.10")
	r.says("rollback to 1", "config", "history")
	r.ends(syscall.SIGTERM)
	r.p = r.start()
	r.comes(1, "192.0.2.10")
	if text := r.p.log.String(); strings.Contains(text, "taken back") {
		t.Errorf("what was kept is called taken back:\n%s", text)
	}
	r.ends(syscall.SIGTERM)
}

func TestWhatCameByARestartIsConfirmedOrTakenBackByAnother(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	r.says("confirm within 4s of when it serves again", "config", "apply", "--restart", "--confirm", "4s", r.next)
	r.comes(2, "192.0.2.11")
	r.fileHas("192.0.2.10")
	r.refuses("waits until", "config", "apply", "--restart", r.file)
	r.refuses("waits for its confirmation", "upgrade")
	if all, err := r.admin.ConfigHistory(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("before it is confirmed the history has %v, %v", all, err)
	}
	r.comes(3, "192.0.2.10") // nobody has confirmed it
	contains(t, "the log", r.p.log.String(), "nobody has confirmed it")
	r.fileHas("192.0.2.10")
	r.nothingWaits()

	r.says("to come", "config", "apply", "--restart", "--confirm", "1m", r.next)
	r.comes(4, "192.0.2.11")
	r.says("to come by a restart", "config", "rollback")
	r.comes(5, "192.0.2.10")

	r.says("to come", "config", "apply", "--restart", "--confirm", "1m", r.next)
	r.comes(6, "192.0.2.11")
	r.says("confirmed", "config", "confirm")
	r.fileHas("192.0.2.11")
	r.nothingWaits()
	r.refuses("no change waits", "config", "rollback")
	if all, err := r.admin.ConfigHistory(t.Context()); err != nil || len(all) != 2 || all[0].Cause != "apply" {
		t.Errorf("the history has %v, %v", all, err)
	}
	r.ends(syscall.SIGTERM)
	r.p = r.start()
	r.comes(1, "192.0.2.11")
	r.ends(syscall.SIGTERM)
}

// Cards and services are there by then, and it fails at SSH's host key.
func TestAChangeThatDoesNotStartIsTakenBackInTheSameProcess(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	r.write(r.next, strings.Replace(r.text("192.0.2.11", "2s"), r.socket, r.socket+", ssh: {listen: \"lan0:22\", authorized_keys: ["+
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHiaDBTzwYmPMsmbJQOkUPMRkcZhQhJ8+ZDVnfA6JpYl me@here], host_key: /proc/nothing/key}", 1))
	if _, stderr, code := r.run("check", "-c", r.next); code != exitOK {
		t.Fatalf("check: status %d, %s", code, stderr)
	}
	r.says("to come by a restart", "config", "apply", "--restart", "--confirm", "1m", r.next)
	r.comes(2, "192.0.2.10")
	contains(t, "the log", r.p.log.String(), "the change is taken back: the appliance does not start with it", "open /proc/nothing")
	r.fileHas("192.0.2.10")
	r.nothingWaits()
	r.refuses("no change waits", "config", "confirm")
	if all, err := r.admin.ConfigHistory(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("the history has %v, %v", all, err)
	}
	r.ends(syscall.SIGTERM)
}

// However a run ends that waits for a confirmation, the next start goes by the file.
func TestAChangeThatIsNotConfirmedEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		r.says("to come", "config", "apply", "--restart", "--confirm", "1m", r.next)
		r.comes(2, "192.0.2.11")
		r.ends(how)
		r.p = r.start()
		r.comes(1, "192.0.2.10")
		contains(t, "the log", r.p.log.String(), "the change by apply is taken back: the appliance has ended before it was kept")
		r.fileHas("192.0.2.10")
		r.nothingWaits()
	}
	r.ends(syscall.SIGTERM)
}

// A drain for a restart that is broken off: nothing comes into force later.
func TestAChangeDoesNotOutliveTheDrainBeforeIt(t *testing.T) {
	t.Parallel()
	r := newTries(t, "5s")
	for how, want := range map[syscall.Signal]string{syscall.SIGKILL: "the change by apply is taken back", syscall.SIGTERM: ""} {
		c := r.dial("192.0.2.10:7")
		exchange(t, c, "hello\n", "hello\n") // it never closes
		r.says("to come", "config", "apply", "--restart", r.next)
		eventually(t, 10*time.Second, "it drains", func() bool { return strings.Contains(r.p.log.String(), "asked to stop: draining") })
		r.refuses("drains already", "config", "apply", "--restart", r.next)
		r.refuses("drains already", "config", "rollback")
		r.p.signal(how)
		code := r.p.end(20 * time.Second)
		if how == syscall.SIGTERM {
			if code != exitReset {
				t.Errorf("exit status %d, want %d", code, exitReset)
			}
			r.nothingWaits()
		}
		if text := r.p.log.String(); strings.Count(text, "INF ready") != 1 {
			t.Errorf("%v: it was to end:\n%s", how, text)
		}
		c.Close()
		r.p = r.start()
		r.comes(1, "192.0.2.10")
		if text := r.p.log.String(); !strings.Contains(text, want) || want == "" && strings.Contains(text, "taken back") {
			t.Errorf("after %v the log says\n%s", how, text)
		}
		r.fileHas("192.0.2.10")
		r.nothingWaits()
	}
	r.ends(syscall.SIGTERM)
}

// What is known before to end badly is refused, and nothing has begun to drain.
func TestARestartThatCannotSucceedIsRefused(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	c := r.dial("192.0.2.10:7")
	exchange(t, c, "before\n", "before\n")
	r.write(r.next, strings.Replace(r.text("192.0.2.11", "2s"), "lan0:", "eth9:", 1))
	r.refuses("nothing is changed: claim eth9: there is no such network card; there are: ", "config", "apply", "--restart", r.next)
	// The file is what it would go back to.
	r.write(r.file, r.text("192.0.2.11", "2s"))
	r.refuses("something else than what is in force", "config", "apply", "--restart", r.file)
	r.write(r.file, "nonsense: true\n")
	r.write(r.next, r.text("192.0.2.11", "2s"))
	r.refuses("appliance.yaml:1:1", "config", "apply", "--restart", r.next)
	r.write(r.file, r.text("192.0.2.10", "2s"))
	exchange(t, c, "after\n", "after\n")
	r.comes(1, "192.0.2.10")
	r.nothingWaits()
	polite(t, c)
	r.ends(syscall.SIGTERM)
}

func TestWhatIsToBeTriedAndCannotBeReadIsRefusedWithAWord(t *testing.T) {
	t.Parallel()
	r := newTries(t, "2s")
	r.ends(syscall.SIGTERM)
	r.write(trialPath(filepath.Join(r.dir, "nic")), `{"text": "aW50`)
	r.p = r.start()
	r.comes(1, "192.0.2.10")
	contains(t, "the log", r.p.log.String(), "what was to be tried cannot be read")
	r.nothingWaits()
	r.ends(syscall.SIGTERM)

	// Nor does one start that was told to try what is wrong, or not there.
	file, dir := r.file, t.TempDir()
	if conf, try, why, err := configToRun(file, dir, true); err != nil || try != nil || conf == nil || why == nil {
		t.Errorf("without anything to try: %v, %v, %v, %v", conf, try, why, err)
	}
	if conf, try, why, err := configToRun(file, dir, false); err != nil || try != nil || conf == nil || why != nil {
		t.Errorf("a start like any other: %v, %v, %v, %v", conf, try, why, err)
	}
	wrong := trial{Text: []byte("nonsense: true\n"), Cause: "apply"}
	if err := wrong.save(dir); err != nil {
		t.Fatal(err)
	}
	conf, try, why, err := configToRun(file, dir, true)
	if err != nil || try != nil || conf == nil || why == nil || !strings.Contains(why.Error(), "the change by apply is taken back: ") {
		t.Errorf("what is wrong is tried: %v, %v, %v, %v", conf, try, why, err)
	}
	if _, err := os.Stat(trialPath(dir)); !os.IsNotExist(err) {
		t.Errorf("what is wrong stays: %v", err)
	}
}
