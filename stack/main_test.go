package stack_test

import (
	"flag"
	"testing"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// TestMain runs the tests as root of a user namespace, whoever calls them, and
// looks for goroutines left over. They wait for timers most of the time: eight
// at once, unless somebody wants it otherwise.
func TestMain(m *testing.M) {
	if f := flag.Lookup("test.parallel"); f != nil && flag.NFlag() == 0 {
		_ = f.Value.Set("8") // a number: it can't fail
	}
	labtest.Main(m)
}
