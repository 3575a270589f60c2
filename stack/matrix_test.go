package stack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirement is a row of docs/rfc9293.md.
type requirement struct{ id, status, test string }

func requirements(t *testing.T) (text string, rows []requirement) {
	t.Helper()
	b, err := os.ReadFile("../docs/rfc9293.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 4 || cells[0] == " id" {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, requirement{cells[0], cells[2], cells[3]})
	}
	return string(b), rows
}

// The page on conformance says what is so: each test it names is there, each id
// of RFC 9293's appendix B once, every reason is given, and at least nine of ten
// MUSTs are shown.
func TestTheConformancePageIsTrue(t *testing.T) {
	t.Parallel()
	text, rows := requirements(t)
	tests := testNames(t)
	var ids []string
	applies, shown, none := 0, 0, 0
	for _, r := range rows {
		ids = append(ids, r.id)
		must := strings.Contains(r.id, "MUST")
		name := strings.Trim(r.test, "`")
		switch r.status {
		case "shown":
			if !slices.Contains(tests, name) {
				t.Errorf("%s is shown by %s, which is no test here", r.id, name)
			}
			if must {
				applies, shown = applies+1, shown+1
			}
		case "does not hold", "does not apply":
			if strings.HasPrefix(name, "Test") || len(name) < 6 {
				t.Errorf("%s %s for no reason: %q", r.id, r.status, name)
			}
			if must && r.status == "does not hold" {
				applies++
			} else if must {
				none++
			}
		default:
			t.Errorf("%s has the status %q", r.id, r.status)
		}
	}
	for kind, most := range map[string]int{"MUST": 69, "SHLD": 31} {
		for i := 1; i <= most; i++ {
			id := fmt.Sprintf("%s-%d", kind, i)
			if n := count(ids, id); n != 1 {
				t.Errorf("%s stands there %d times, want once", id, n)
			}
		}
	}
	if shown*10 < applies*9 {
		t.Errorf("%d of %d MUSTs are shown, want nine of ten", shown, applies)
	}
	summary := fmt.Sprintf("**%d of the %d MUSTs that apply are shown**, %d do not hold, each with its reason, and %d do not apply.", shown, applies, applies-shown, none)
	if !strings.Contains(text, summary) {
		t.Errorf("the page does not say: %s", summary)
	}
}

func count(all []string, one string) (n int) {
	for _, x := range all {
		if x == one {
			n++
		}
	}
	return n
}

// Each id of RFC 9293 that the table of RFC 1122 names has its row.
func TestTheTableOfRFC1122NamesRows(t *testing.T) {
	t.Parallel()
	text, rows := requirements(t)
	_, table, found := strings.Cut(text, "## RFC 1122")
	named := regexp.MustCompile(`\b(MUST|SHLD)-\d+`).FindAllString(table, -1)
	if !found || len(named) < 70 {
		t.Fatalf("the table names %d rows, want at least 70", len(named))
	}
	for _, id := range named {
		if !slices.ContainsFunc(rows, func(r requirement) bool { return r.id == id }) {
			t.Errorf("%s has no row", id)
		}
	}
}

// testNames are the tests of this package, of the table and of conformance.
func testNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"conformance", "flow"} {
		more, err := filepath.Glob(dir + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names
}
