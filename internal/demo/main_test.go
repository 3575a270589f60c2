package demo

import (
	"testing"

	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }
