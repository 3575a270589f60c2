package netif

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// errCrash is thrown where a process is to die.
var errCrash = errors.New("killed")

// crashing runs f with a keeper that dies after the n-th step, or after none
// for a negative n. It returns the name of that step, "" if f came to its end.
func crashing(dir string, n int, f func(*keeper) error) (at string, err error) {
	k := newKeeper(dir, nil)
	k.alive = func(process) bool { return false } // the process of the last crash
	k.step = func(done string) error {
		if n--; n == -1 {
			at = done
			panic(errCrash)
		}
		return nil
	}
	defer func() {
		if p := recover(); p != nil && p != any(errCrash) {
			panic(p)
		}
	}()
	return "", f(k)
}

// releaseAsNext is what "nic release" does after the crash of the process.
func releaseAsNext(k *keeper) error { return k.releaseCrashed("eth0") }

func TestCrashInAnyStepOfClaimIsUndone(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	claim := func(k *keeper) error { _, err := k.claim("eth0", 9000); return err }
	r.do(func() {
		before := r.picture("eth0")
		for n := range 100 {
			at, err := crashing(dir, n, claim)
			r.must(err)
			_, err = crashing(dir, -1, releaseAsNext)
			r.must(err)
			r.restored("eth0", before)
			if t.Failed() {
				t.Errorf("above: killed after step %q of the claim", at)
				return
			}
			if at == "" && n > 5 {
				return
			}
		}
		t.Error("the claim does not end")
	})
}

func TestCrashInAnyStepOfReleaseIsUndone(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		for n := range 100 {
			nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
			r.must(err)
			at, err := crashing(dir, n, func(k *keeper) error { return k.release(nic.state, (*state).gone) })
			r.must(err)
			if at != "" {
				_, err = crashing(dir, -1, releaseAsNext)
				r.must(err)
			}
			r.restored("eth0", before)
			if t.Failed() {
				t.Errorf("above: killed after step %q of the release", at)
				return
			}
			if at == "" && n > 5 {
				return
			}
		}
		t.Error("the release does not end")
	})
}

func TestFailureInAnyStepOfClaimIsUndone(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	errStep := errors.New("no more")
	r.do(func() {
		before := r.picture("eth0")
		for n := range 100 {
			k, left, failed := newKeeper(dir, nil), n, ""
			k.step = func(done string) error {
				if left--; left != -1 {
					return nil
				}
				failed = done
				return fmt.Errorf("after %s: %w", done, errStep)
			}
			nic, err := k.claim("eth0", 9000)
			if err == nil {
				k.step = nil
				r.must(nic.Release())
			} else if !errors.Is(err, errStep) || strings.Contains(err.Error(), "undo") {
				t.Errorf("claim: %v, want only %v", err, errStep)
			}
			r.restored("eth0", before)
			if files, _ := os.ReadDir(dir); len(files) != 0 {
				t.Errorf("left in the state directory: %v", files)
			}
			if t.Failed() {
				t.Errorf("above: failed after step %q of the claim", failed)
				return
			}
			if err == nil && n > 5 {
				return
			}
		}
		t.Error("the claim does not end")
	})
}

func TestClaimAfterACrashKeepsTheOriginal(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		_, err := crashing(dir, -1, func(k *keeper) error { _, err := k.claim("eth0", 9000); return err })
		r.must(err)
		var log strings.Builder
		k := newKeeper(dir, slog.New(slog.NewTextHandler(&log, nil)))
		k.alive = func(process) bool { return false }
		nic, err := k.claim("eth0", 0)
		r.must(err)
		r.checkClaimed(nic, 1450)
		if !strings.Contains(log.String(), "taking over from a process that has crashed") {
			t.Errorf("log says nothing of the crash:\n%s", log.String())
		}
		filters, err := filtersOf(nic.Index(), tcIngress)
		r.must(err)
		if len(filters) != 1 {
			t.Errorf("got %d filters, want the old guard replaced by one", len(filters))
		}
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

const holderEnv = "NETIF_TEST_HOLD"

// TestHoldACard is the process that TestKilledProcess kills. By itself it has
// nothing to test.
func TestHoldACard(t *testing.T) {
	dir := os.Getenv(holderEnv)
	if dir == "" {
		return
	}
	if _, err := Claim("eth0", ClaimOptions{StateDir: dir, MTU: 1300}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("claimed")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

func TestKilledProcess(t *testing.T) {
	t.Parallel()
	r, _ := pair(t)
	dir := t.TempDir()
	r.do(func() {
		before := r.picture("eth0")
		pid := r.holdAndKill(dir, func(pid int) {
			want := fmt.Sprintf("eth0: the card is held by the running process %d: stop it first", pid)
			if _, err := Claim("eth0", ClaimOptions{StateDir: dir}); err == nil || err.Error() != "claim "+want {
				t.Errorf("claim of a held card: %v, want %q", err, want)
			}
			if err := Release("eth0", dir); err == nil || err.Error() != "release "+want {
				t.Errorf("release of a held card: %v, want %q", err, want)
			}
			r.checkHolder(dir, Holder{PID: pid, Alive: true})
		})
		r.checkHolder(dir, Holder{PID: pid})
		r.must(Release("eth0", dir))
		r.restored("eth0", before)

		r.holdAndKill(dir, func(int) {})
		nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
		r.must(err)
		r.must(nic.Release())
		r.restored("eth0", before)
	})
}

// holdAndKill claims eth0 in a process of its own, runs f, and kills it.
func (r *room) holdAndKill(dir string, f func(pid int)) int {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHoldACard$")
	cmd.Env = append(os.Environ(), holderEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	r.must(err)
	defer func() { _ = stdin.Close() }() // the process is gone
	stdout, err := cmd.StdoutPipe()
	r.must(err)
	r.must(cmd.Start())
	line := make([]byte, len("claimed"))
	_, err = io.ReadFull(stdout, line)
	if err == nil && string(line) != "claimed" {
		err = fmt.Errorf("the process says %q", line)
	}
	if err == nil {
		f(cmd.Process.Pid)
	}
	r.must(errors.Join(err, cmd.Process.Signal(syscall.SIGKILL)))
	_ = cmd.Wait() // says "killed"
	return cmd.Process.Pid
}

func (r *room) checkHolder(dir string, want Holder) {
	r.t.Helper()
	cards, err := List(dir)
	r.must(err)
	for _, c := range cards {
		if c.Name != "eth0" {
			continue
		}
		if c.Holder == nil || *c.Holder != want || c.Suitable == want.Alive {
			r.t.Errorf("card is listed as %+v, holder %+v, want %+v", c, c.Holder, want)
		}
		return
	}
	r.t.Error("eth0 is not listed")
}

func TestStateOfAnotherCardIsSaidToBe(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*state)
		why    string
	}{
		"boot":      {func(s *state) { s.Boot = "another" }, "it is of an earlier boot"},
		"namespace": {func(s *state) { s.Namespace++ }, "is of another network namespace"},
		"number":    {func(s *state) { s.Index = 77 }, "eth0 had number 77 and has "},
		"address":   {func(s *state) { s.MAC = "02:00:00:00:00:77" }, "eth0 had the address 02:00:00:00:00:77 and has "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			veth(r, "eth0", newRoom(t), "peer0")
			dir := t.TempDir()
			old := func() {
				_, err := crashing(dir, 0, func(k *keeper) error { _, err := k.claim("eth0", 0); return err })
				r.must(err)
				s, err := loadState(dir, "eth0")
				r.must(err)
				tt.change(s)
				r.must(s.save(dir))
			}
			r.do(func() {
				r.address("eth0", &netlink.Addr{IPNet: prefix("10.0.0.2/24")})
				r.settle("eth0")
				before := r.picture("eth0")
				old()
				if _, err := crashing(dir, -1, releaseAsNext); err == nil || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("release: %v, want %q", err, tt.why)
				}
				r.restored("eth0", before)
				// Elsewhere the file still means something.
				if _, err := os.Stat(statePath(dir, "eth0")); (err == nil) != (name == "namespace") {
					t.Errorf("state file after the release: %v", err)
				}
				old()
				r.must(netlink.AddrDel(r.link("eth0"), &netlink.Addr{IPNet: prefix("10.0.0.2/24")}))
				before = r.picture("eth0")
				var log strings.Builder
				k := newKeeper(dir, slog.New(slog.NewTextHandler(&log, nil)))
				k.alive = func(process) bool { return false }
				nic, err := k.claim("eth0", 0)
				r.must(err)
				if !strings.Contains(log.String(), tt.why) {
					t.Errorf("log does not say %q:\n%s", tt.why, log.String())
				}
				r.must(nic.Release())
				r.restored("eth0", before)
			})
		})
	}
}

func TestUnreadableStateFile(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	veth(r, "eth0", newRoom(t), "peer0")
	for _, tt := range []struct{ text, release, claim string }{
		{"{", "state file is damaged", ""},
		{`{"version":1,"name":"eth1"}`, `it is about "eth1"`, ""},
		{`{"version":1,"name":"eth0","original":{"routes":[{"text":"x","raw":"AAAA"}]}}`, `message "x" is too short`, ""},
		{`{"version":2}`, "is of version 2", "is of version 2"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(statePath(dir, "eth0"), []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			if err := Release("eth0", dir); err == nil || !strings.Contains(err.Error(), tt.release) {
				t.Errorf("release with %s: %v, want %q", tt.text, err, tt.release)
			}
			nic, err := Claim("eth0", ClaimOptions{StateDir: dir})
			switch {
			case err == nil && tt.claim == "":
				r.must(nic.Release())
			case err == nil || tt.claim == "" || !strings.Contains(err.Error(), tt.claim):
				t.Errorf("claim with %s: %v, want %q", tt.text, err, tt.claim)
			}
		})
	}
}
