package labtest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/lastack/lastack/internal/lab"
)

// refused is why there is no laboratory, nil if there is one. Main sets it
// before the first test.
var refused error

// Required reports whether a test that can't run is a failure.
func Required() bool { return os.Getenv("APPLIANCE_TEST") == "require" }

// Main is what TestMain calls. It runs the test program again inside new
// namespaces, with all its flags, so that profiles and coverage are written by
// the inner run, and exits with its status.
func Main(m *testing.M) {
	os.Exit(Run(m))
}

// Run is Main for a TestMain with work of its own: it returns the status.
// What TestMain does before it happens outside the laboratory too.
func Run(m *testing.M) int {
	if addr := os.Getenv(echoRole); addr != "" {
		return playEcho(addr)
	}
	refused = lab.Enter()
	if refused != nil && Required() {
		fmt.Fprintf(os.Stderr, "no laboratory for tests: %v\n", refused)
		return 1
	}
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintf(os.Stderr, "goroutines left after the tests: %v\n", err)
		return 1
	}
	return 0
}

// Need skips the test if there is no laboratory.
func Need(t testing.TB) {
	t.Helper()
	switch {
	case refused != nil:
		t.Skipf("no laboratory: %v", refused)
	case !lab.Inside():
		t.Fatal("no laboratory: TestMain must call labtest.Main")
	}
}

// Lacks skips the test for want of something of the machine, or fails it
// where a skip is a failure.
func Lacks(t testing.TB, what string, err error) {
	t.Helper()
	if Required() {
		t.Fatalf("this machine lacks %s: %v", what, err)
	}
	t.Skipf("this machine lacks %s: %v", what, err)
}
