package config_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/lastack/lastack/config"
)

// FuzzParse wants every text either refused with errors that can be shown, or
// taken and rendered as a configuration with the same meaning.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"testdata/valid/", "testdata/invalid/"} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range entries {
			if !strings.HasSuffix(entry.Name(), ".yaml") {
				continue
			}
			data, err := os.ReadFile(folder + entry.Name())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("fuzz.yaml", data)
		if err == nil {
			roundTrip(t, c)
			return
		}
		var errs config.Errors
		if c != nil || !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("got %v and error %v, want nil and config.Errors", c, err)
		}
		last := config.Pos{}
		for i, e := range errs {
			if e.Message == "" || strings.ContainsAny(e.Error(), "\x00\x1b\x07\x7f") {
				t.Fatalf("error %d cannot be shown: %q", i, e.Error())
			}
			if e.Pos != (config.Pos{}) && (e.Pos.Line < last.Line || e.Pos.Line < 1 || e.Pos.Column < 1) {
				t.Fatalf("error %d at %v, after one at %v", i, e.Pos, last)
			}
			last.Line = max(last.Line, e.Pos.Line)
		}
	})
}
