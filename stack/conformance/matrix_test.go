package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const matrix = "../../docs/rfc9293.md"

// byHand are the files whose tests put segments on a wire that no gVisor made,
// by the package's name in the matrix.
var byHand = map[string][]string{
	"conformance": {"*_test.go"},
	"stack":       {"../conform_*_test.go", "../guard_test.go", "../lifecycle_test.go"},
}

// appendixB is how many requirements of each kind RFC 9293, Appendix B numbers.
var appendixB = map[string]int{"MUST": 69, "SHLD": 31, "MAY": 18, "REC": 1}

// statement is a line of the matrix.
type statement struct{ id, level, what, status, tests string }

func (s statement) shown() bool   { return s.status == "shown" }
func (s statement) applies() bool { return !strings.HasPrefix(s.status, "does not apply: ") }

func readMatrix(t *testing.T) (text string, all []statement) {
	t.Helper()
	b, err := os.ReadFile(matrix)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		s := statement{cells[0], cells[1], cells[2], cells[3], cells[4]}
		if slices.Contains([]string{"MUST", "SHOULD", "MAY"}, s.level) {
			all = append(all, s)
		}
	}
	return string(b), all
}

// summary is the line of the matrix that counts.
func summary(all []statement) (line string, percent int) {
	count := func(level string) (shown, applicable int) {
		for _, s := range all {
			if s.level == level && s.applies() {
				applicable++
				if s.shown() {
					shown++
				}
			}
		}
		return shown, applicable
	}
	must, musts := count("MUST")
	should, shoulds := count("SHOULD")
	percent = 100 * must / max(musts, 1)
	return fmt.Sprintf("Of %d applicable MUSTs %d are shown (%d %%), of %d SHOULDs %d.", musts, must, percent, shoulds, should), percent
}

// testsByHand are the names of all tests in the files of byHand.
func testsByHand(t *testing.T) map[string]bool {
	t.Helper()
	names, declared := map[string]bool{}, regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for pkg, patterns := range byHand {
		for _, pattern := range patterns {
			files, err := filepath.Glob(pattern)
			if err != nil || len(files) == 0 {
				t.Fatalf("no file is %s: %v", pattern, err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
					names[pkg+"."+m[1]] = true
				}
			}
		}
	}
	return names
}

func TestTheMatrixNamesTestsThatExist(t *testing.T) {
	_, all := readMatrix(t)
	known := testsByHand(t)
	reason := regexp.MustCompile(`^(does not hold|does not apply|not shown|not used): \S`)
	for _, s := range all {
		named := strings.Fields(strings.NewReplacer("`", "", ",", " ").Replace(s.tests))
		for _, name := range named {
			if !known[name] {
				t.Errorf("%s names %s, which is no test with segments made by hand", s.id, name)
			}
			if s.shown() && isGap(strings.TrimPrefix(name, "conformance.")) {
				t.Errorf("%s is called shown, and %s is in knownGaps", s.id, name)
			}
		}
		if s.shown() && len(named) == 0 {
			t.Errorf("%s is shown by no test", s.id)
		}
		if !s.shown() && !reason.MatchString(s.status) {
			t.Errorf("%s: %q is no status, or lacks its reason", s.id, s.status)
		}
	}
}

// isGap reports whether a test or one of its parts is known to fail.
func isGap(test string) bool {
	for name := range knownGaps {
		if top, _, _ := strings.Cut(name, "/"); top == test {
			return true
		}
	}
	return false
}

func TestTheMatrixHasAllOfAppendixB(t *testing.T) {
	_, all := readMatrix(t)
	seen := map[string]int{}
	for _, s := range all {
		seen[s.id]++
	}
	for kind, n := range appendixB {
		for i := 1; i <= n; i++ {
			if id := fmt.Sprintf("%s-%d", kind, i); seen[id] != 1 {
				t.Errorf("%s is there %d times, want once", id, seen[id])
			}
		}
	}
}

func TestTheMatrixCountsWhatItHas(t *testing.T) {
	text, all := readMatrix(t)
	if line, _ := summary(all); !strings.Contains(text, line) {
		t.Errorf("docs/rfc9293.md lacks the line that counts, write: %s", line)
	}
}

func TestNineOfTenMUSTsAreShown(t *testing.T) {
	_, all := readMatrix(t)
	seen := ""
	if line, percent := summary(all); percent < 90 {
		seen = line
	}
	holds(t, seen)
}

// Each gap is in the matrix, and has its test.
func TestKnownGapsAreInTheMatrix(t *testing.T) {
	text, _ := readMatrix(t)
	for name := range knownGaps {
		if top, _, _ := strings.Cut(name, "/"); !strings.Contains(text, top) {
			t.Errorf("%s is not in docs/rfc9293.md", top)
		}
	}
}
