package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// load reads a file of testdata with the name that the golden files show.
func load(t *testing.T, path string) (*config.Config, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return config.Parse(filepath.Base(path), data)
}

// files lists the configurations of one folder.
func files(t *testing.T, folder string, atLeast int) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < atLeast {
		t.Fatalf("got %d files in testdata/%s, want at least %d", len(paths), folder, atLeast)
	}
	return paths
}

// golden compares a text with the file beside a configuration.
func golden(t *testing.T, path, got string) {
	t.Helper()
	path = strings.TrimSuffix(path, ".yaml") + ".golden"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestInvalidFilesGiveTheirMessage(t *testing.T) {
	for _, path := range files(t, "invalid", 40) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := load(t, path)
			if c != nil || err == nil {
				t.Fatalf("got %v and error %v, want nil and an error", c, err)
			}
			var errs config.Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %T with %d errors, want config.Errors", err, len(errs))
			}
			golden(t, path, err.Error()+"\n")
		})
	}
}

func TestValidFilesGiveTheirEffectiveConfiguration(t *testing.T) {
	for _, path := range files(t, "valid", 6) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := load(t, path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := c.Effective()
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, w := range c.Warnings() {
				b.WriteString(w.Error() + "\n")
			}
			golden(t, path, string(text)+"--- warnings\n"+b.String())
		})
	}
}
