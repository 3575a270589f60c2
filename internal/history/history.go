// Package history keeps the configurations that were in force: one file for
// each, with its number, the time and what brought it.
package history

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lastack/lastack/internal/wholefile"
)

// Most is how many are kept; the oldest go.
const Most = 100

// History is a directory of configurations.
type History struct{ dir string }

// Entry is one configuration that was in force.
type Entry struct {
	Number int       `json:"number"` // 1 is the first ever
	Time   time.Time `json:"time"`   // when it came into force
	Cause  string    `json:"cause"`  // "start", "reload", "apply", "rollback to 3"
}

// ErrUnknown is the answer about a number that is not kept.
var ErrUnknown = errors.New("no such configuration is kept")

// In is the history in a directory, which is made with the first entry.
func In(dir string) History { return History{dir} }

const (
	mark   = "# lastack "
	suffix = ".yaml"
)

// List returns all entries, newest first. A file that is none is left out.
func (h History) List() ([]Entry, error) {
	files, err := os.ReadDir(h.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of configurations: %w", err)
	}
	var all []Entry
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(h.dir, f.Name()))
		if err != nil {
			continue // it may have been too old meanwhile
		}
		if e, _, ok := split(text); ok && f.Name() == e.file() {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return b.Number - a.Number })
	return all, nil
}

// Get returns the text of one; ErrUnknown if it is not kept.
func (h History) Get(number int) (Entry, []byte, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, Entry{Number: number}.file()))
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, nil, fmt.Errorf("configuration %d: %w", number, ErrUnknown)
	}
	if err != nil {
		return Entry{}, nil, fmt.Errorf("read configuration %d: %w", number, err)
	}
	e, rest, ok := split(text)
	if !ok {
		return Entry{}, nil, fmt.Errorf("configuration %d is damaged: its first line is not one of ours", number)
	}
	return e, rest, nil
}

// Add keeps a configuration, unless it is the newest already, and returns its entry.
func (h History) Add(text []byte, cause string, now time.Time) (Entry, error) {
	all, err := h.List()
	if err != nil {
		return Entry{}, err
	}
	next := Entry{Number: 1, Time: now.UTC().Truncate(time.Second), Cause: cause}
	if len(all) > 0 {
		if newest, old, err := h.Get(all[0].Number); err == nil && bytes.Equal(old, text) {
			return newest, nil
		}
		next.Number = all[0].Number + 1
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return Entry{}, fmt.Errorf("keep the configuration: %w", err)
	}
	head := fmt.Sprintf("%s%d %s %s\n", mark, next.Number, next.Time.Format(time.RFC3339), cause)
	if err := wholefile.Write(filepath.Join(h.dir, next.file()), append([]byte(head), text...), 0o600); err != nil {
		return Entry{}, fmt.Errorf("keep the configuration: %w", err)
	}
	for len(all) >= Most {
		oldest := all[len(all)-1]
		all = all[:len(all)-1]
		if err := os.Remove(filepath.Join(h.dir, oldest.file())); err != nil {
			return next, fmt.Errorf("forget configuration %d: %w", oldest.Number, err)
		}
	}
	return next, nil
}

func (e Entry) file() string { return fmt.Sprintf("%06d%s", e.Number, suffix) }

// split takes the first line, which is ours, off the text.
func split(text []byte) (e Entry, rest []byte, ok bool) {
	head, rest, found := bytes.Cut(text, []byte("\n"))
	line, ours := strings.CutPrefix(string(head), mark)
	parts := strings.SplitN(line, " ", 3)
	if !found || !ours || len(parts) != 3 {
		return e, nil, false
	}
	at, err := time.Parse(time.RFC3339, parts[1])
	if _, scan := fmt.Sscanf(parts[0], "%d", &e.Number); scan != nil || err != nil || e.Number < 1 {
		return e, nil, false
	}
	e.Time, e.Cause = at, parts[2]
	return e, rest, true
}
