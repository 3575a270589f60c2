package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// act tells the test program to play a program that uses Enter.
const act = "LAB_TEST_ACT"

func TestMain(m *testing.M) {
	if part := os.Getenv(act); part != "" && part != "tests" {
		os.Exit(play(part))
	}
	labtest.Main(m)
}

func play(part string) int {
	if err := lab.Enter(); err != nil {
		fmt.Println(err)
		return 99
	}
	switch part {
	case "exit":
		fmt.Println(strings.Join(os.Args[1:], " "), lab.Inside(), os.Geteuid())
		return 7
	case "die":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return 98
		}
		select {}
	default:
		term := make(chan os.Signal, 2)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("ready")
		<-term
		return 9
	}
}

// outside prepares a program that is not yet in the laboratory.
func outside(t *testing.T, part string, args ...string) *exec.Cmd {
	t.Helper()
	labtest.Need(t)
	cmd := exec.Command("/proc/self/exe", args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "LASTACK_LAB=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, act+"="+part)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestEnterPassesArgumentsOutputAndStatus(t *testing.T) {
	cmd := outside(t, "exit", "one", "two")
	out, _ := cmd.Output() // the status is looked at below
	if got, want := string(out), "one two true 0\n"; got != want {
		t.Errorf("got output %q, want %q", got, want)
	}
	if got := cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("got status %d, want 7", got)
	}
}

func TestEnterTellsThatTheInnerProcessWasKilled(t *testing.T) {
	cmd := outside(t, "die")
	_ = cmd.Run() // likewise
	if got, want := cmd.ProcessState.ExitCode(), 128+int(syscall.SIGKILL); got != want {
		t.Errorf("got status %d, want %d", got, want)
	}
}

func TestEnterPassesSignals(t *testing.T) {
	cmd := outside(t, "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("got %q, %v, want ready", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // likewise
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("got status %d, want 9", got)
	}
}

func TestStrayMarkerDoesNotLookLikeALaboratory(t *testing.T) {
	labtest.Need(t)
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("LASTACK_LAB", here)
	if lab.Inside() {
		t.Error("got Inside with the marker of this very namespace")
	}
}

// forbid makes new namespaces impossible while the test runs, by settings of
// our own user namespace.
func forbid(t *testing.T) {
	t.Helper()
	labtest.Need(t)
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if top, err := os.Readlink("/proc/1/ns/user"); err == nil && top == ours {
		t.Skip("the laboratory has no user namespace of its own here, and the machine's settings stay as they are")
	}
	for _, f := range []string{"/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_net_namespaces"} {
		old, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(f, old, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEnterSaysWhatForbidsNamespaces(t *testing.T) {
	cmd := outside(t, "exit")
	forbid(t)
	out, _ := cmd.Output() // the status is looked at below
	if want := "sysctl -w user.max_user_namespaces="; !strings.Contains(string(out), want) {
		t.Errorf("got %q, want it to say %q", out, want)
	}
	if got := cmd.ProcessState.ExitCode(); got != 99 {
		t.Errorf("got status %d, want 99", got)
	}
}

func TestWithoutNamespacesTestsAreSkippedOrFail(t *testing.T) {
	for _, c := range []struct {
		setting, want string
		status        int
	}{
		{"", "--- SKIP: TestDoMovesTheThreadAndBringsItBack", 0},
		{"require", "no laboratory for tests: ", 1},
	} {
		t.Run("setting "+c.setting, func(t *testing.T) {
			cmd := outside(t, "tests", "-test.v", "-test.run=TestDoMoves")
			cmd.Env = append(cmd.Env, "APPLIANCE_TEST="+c.setting)
			cmd.Stderr = nil
			forbid(t)
			out, _ := cmd.CombinedOutput() // likewise
			if !strings.Contains(string(out), c.want) || cmd.ProcessState.ExitCode() != c.status {
				t.Errorf("got %q and status %d, want %q and %d", out, cmd.ProcessState.ExitCode(), c.want, c.status)
			}
		})
	}
}
