package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/golden"
)

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

// beside is the golden file of a configuration.
func beside(path string) string { return strings.TrimSuffix(path, ".yaml") + ".golden" }

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
			golden.Check(t, beside(path), err.Error()+"\n")
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
			golden.Check(t, beside(path), string(text)+"--- warnings\n"+b.String())
		})
	}
}
