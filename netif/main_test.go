package netif

import (
	"testing"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// TestMain runs the tests as root of a user namespace, whoever calls them.
func TestMain(m *testing.M) { labtest.Main(m) }
