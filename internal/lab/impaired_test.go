package lab_test

import (
	"testing"

	"github.com/lastack/lastack/internal/lab"
)

func TestPerfectImpairedLinkCarriesAWordBothWays(t *testing.T) {
	a, b, _ := impairedPair(t, lab.Impairment{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { sayHello(t, a, b, f.b) })
	}
}
