package conformance

import (
	"flag"
	"testing"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// TestMain runs the tests as root of a user namespace, whoever calls them, and
// looks for goroutines left over.
func TestMain(m *testing.M) {
	// They wait for segments, not for a CPU. -parallel still has the last word.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	labtest.Main(m)
}
