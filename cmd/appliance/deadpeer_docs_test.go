package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A claim of the manual is worth the test that it names.
func TestTheTestsThatTheManualOfDeadPeersNamesExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/dead-peers.md")
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t, "../..")
	named := regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`").FindAllStringSubmatch(string(text), -1)
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("the manual names %s, which is no test", m[1])
		}
	}
	if len(named) < 20 {
		t.Errorf("the manual names %d tests, want one for each claim", len(named))
	}
	ways := regexp.MustCompile(`(?m)^## [1-5]\. `).FindAllStringIndex(string(text), -1)
	if len(ways) != 5 {
		t.Fatalf("the manual has %d ways, want 5", len(ways))
	}
	for i, at := range ways {
		section := string(text[at[1]:])
		if end := strings.Index(section, "\n## "); end >= 0 {
			section = section[:end]
		}
		if !strings.Contains(section, "`Test") {
			t.Errorf("way %d names no test", i+1)
		}
	}
}

func TestTheTestsThatTheManualOfTheSweepNamesExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/crash-sweep.md")
	if err != nil {
		t.Fatal(err)
	}
	there := testNames(t, "../..")
	named := regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`").FindAllStringSubmatch(string(text), -1)
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("the manual names %s, which is no test", m[1])
		}
	}
	if len(named) < 12 {
		t.Errorf("the manual names %d tests, want one for each claim", len(named))
	}
}

// testNames are the test functions of the module.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(t \*testing\.T\)`)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			names[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
