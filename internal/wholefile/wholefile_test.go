package wholefile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/lastack/lastack/internal/wholefile"
)

// names are what a directory has.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		all = append(all, f.Name())
	}
	return all
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWriteLeavesTheNewFileAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	for _, text := range []string{"old and longer", "new"} {
		if err := wholefile.Write(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "new" {
		t.Errorf("it has %q, %v", text, err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a.yaml"}) {
		t.Errorf("left are %v", got)
	}
	if err := wholefile.Write(filepath.Join(dir, "none", "a.yaml"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in no directory: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := wholefile.Write(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("a directory was written over")
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a.yaml", "d"}) {
		t.Errorf("a write that failed has left %v", got)
	}
}

// A power cut leaves drafts, whole or not. The next write of that file removes them, and nothing that belongs to others.
func TestTheNextWriteRemovesWhatAPowerCutHasLeft(t *testing.T) {
	dir := t.TempDir()
	others := []string{".a.yaml.new", ".a.yaml.swp", ".a.yaml.x1.new", ".b.yaml.17.new", "a.yaml.17.new"}
	for _, name := range append([]string{".a.yaml.17.new", ".a.yaml.4294967295.new"}, others...) {
		put(t, dir, name, "ha")
	}
	if err := wholefile.Write(filepath.Join(dir, "a.yaml"), []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := append(others, "a.yaml")
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

// What another process is writing at the moment is locked, and not taken for left.
func TestADraftThatIsBeingWrittenStays(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, ".a.17.new", "ha")
	f, err := os.Open(filepath.Join(dir, ".a.17.new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{".a.17.new", "a"}, {"a"}} {
		if err := wholefile.Write(filepath.Join(dir, "a"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("left are %v, want %v", got, want)
		}
		_ = f.Close() // its writer ends; the second time it is closed already
	}
}

// Many write one file at once: whoever reads it finds one of their texts, whole, and no write fails.
func TestWritersDoNotDisturbEachOther(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	if err := wholefile.Write(file, bytes.Repeat([]byte{'0'}, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for writer := range 8 {
		wait.Go(func() {
			text := bytes.Repeat(fmt.Append(nil, writer), 1+writer*10_000)
			for range 30 {
				if err := wholefile.Write(file, text, 0o600); err != nil {
					t.Errorf("writer %d: %v", writer, err)
				}
				got, err := os.ReadFile(file)
				if err != nil {
					t.Error(err)
					continue
				}
				if whole := 1 + int(got[0]-'0')*10_000; len(got) != whole || bytes.Count(got, got[:1]) != whole {
					t.Errorf("there are %d bytes that begin with %c, want %d of them", len(got), got[0], whole)
				}
			}
		})
	}
	wait.Wait()
	if got := names(t, dir); !slices.Equal(got, []string{"a"}) {
		t.Errorf("left are %v", got)
	}
}

// The directory may be that of a process which is trusted less: a link there leads nobody to another file.
func TestAFileIsNotWrittenThroughALink(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "other", "of another\n")
	for _, link := range []string{"a", ".a.17.new"} {
		if err := os.Symlink("other", filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := wholefile.Write(filepath.Join(dir, "a"), []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "other")); string(text) != "of another\n" || err != nil {
		t.Errorf("the other file is %q, %v", text, err)
	}
	if st, err := os.Lstat(filepath.Join(dir, "a")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("the file is %v, %v", st, err)
	}
}
