package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatWasInForceIsKept(t *testing.T) {
	h := In(filepath.Join(t.TempDir(), "history"))
	if all, err := h.List(); err != nil || len(all) > 0 {
		t.Fatalf("an empty history has %v, %v", all, err)
	}
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for i, text := range []string{"one: 1\n", "two: 2\n", "two: 2\n", "# three\n"} {
		if _, err := h.Add([]byte(text), fmt.Sprint("cause ", i), at.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.List()
	if err != nil || len(all) != 3 {
		t.Fatalf("kept are %v, %v; want three, since one came twice in a row", all, err)
	}
	if e := all[0]; e.Number != 3 || e.Cause != "cause 3" || !e.Time.Equal(at.Add(3*time.Hour)) {
		t.Errorf("the newest is %+v", e)
	}
	if _, text, err := h.Get(2); err != nil || string(text) != "two: 2\n" {
		t.Errorf("the second is %q, %v", text, err)
	}
	if _, _, err := h.Get(9); !errors.Is(err, ErrUnknown) {
		t.Errorf("one that never was: %v", err)
	}
}

func TestTheOldestGoAndStrangersAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	h := In(dir)
	for i := range Most + 5 {
		if _, err := h.Add(fmt.Appendf(nil, "n: %d\n", i), "reload", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"notes.txt", "000200.yaml", "000001.yaml.bak"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("# lastack x y z\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.List()
	if err != nil || len(all) != Most || all[0].Number != Most+5 || all[Most-1].Number != 6 {
		t.Errorf("%d are kept, from %+v to %+v, %v", len(all), all[len(all)-1], all[0], err)
	}
	if _, _, err := h.Get(200); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("a damaged one: %v", err)
	}
}
