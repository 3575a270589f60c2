package conformance

import (
	"testing"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// TestMain runs the tests as root of a user namespace, whoever calls them, and
// looks for goroutines left over.
func TestMain(m *testing.M) { labtest.Main(m) }
