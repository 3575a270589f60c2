package lifecycle_test

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/internal/golden"
	"github.com/lastack/lastack/internal/lifecycle"
)

func TestThePictureIsThatOfTheChart(t *testing.T) {
	svg := lifecycle.SVG()
	golden.Check(t, filepath.Join("..", "..", "docs", "lifecycle.svg"), string(svg))
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestThePageHoldsTheChartAsText(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "lifecycle.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```\n"+lifecycle.Text()+"```\n") {
		t.Errorf("docs/lifecycle.md does not hold this text:\n%s", lifecycle.Text())
	}
}

func TestEveryArrowJoinsTwoStates(t *testing.T) {
	known := make(map[string]bool)
	for _, s := range lifecycle.States() {
		known[s.Name] = true
	}
	left := make(map[string]bool)
	for _, a := range lifecycle.Arrows() {
		if !known[a.From] || !known[a.To] {
			t.Errorf("%q -> %q joins nothing", a.From, a.To)
		}
		left[a.From] = true
	}
	for name := range known {
		if !left[name] && strings.TrimSpace(name) != "CLOSED" {
			t.Errorf("nothing leads out of %s", name)
		}
	}
}
