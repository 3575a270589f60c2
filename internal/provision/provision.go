package provision

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/internal/wholefile"
)

// Names of the files on a medium, in its root.
const (
	ConfigName = "lastack.yaml"
	KeysName   = "authorized_keys"
)

// Target is where settings go.
type Target struct {
	Config   string                  // the appliance's configuration
	Keys     string                  // the keys that may log in by SSH
	StateDir string                  // of the appliance: its history, and what was taken
	Check    func(text []byte) error // of a configuration: everything that is wrong with it
	Keep     func(text []byte) error // of keys: what is wrong with a line
}

// Outcome tells what became of one file that was found.
type Outcome struct {
	File string
	What string // "taken", "known" (taken before, or in force), "refused"
	Err  error  // why it was refused
}

// String is a sentence for the console.
func (o Outcome) String() string {
	switch o.What {
	case Taken:
		return fmt.Sprintf("%s is taken: it is in force from now on", o.File)
	case Known:
		return fmt.Sprintf("%s was taken before and is left alone", o.File)
	}
	return fmt.Sprintf("%s IS NOT TAKEN, the box goes on with what it has: %v", o.File, o.Err)
}

// What becomes of a file.
const (
	Taken   = "taken"
	Known   = "known"
	Refused = "refused"
)

// Bounds of what is read from a medium that anybody may have written.
const (
	mostBytes = 1<<20 + 1 // one more than a configuration may have
	mostKnown = 64        // sums that are remembered
	mostKeys  = 64 << 10  // bytes of keys
)

// Take looks at each medium, a directory, in turn and takes what is new there. A
// file that was taken once is not taken again, though the configuration may be
// another meanwhile: what an operator has changed stays. One that is wrong changes
// nothing. The error is about the box; what is wrong with a medium is an Outcome.
func Take(t Target, media ...string) (all []Outcome, err error) {
	known, err := t.known()
	if err != nil {
		return nil, err
	}
	for _, dir := range media {
		for _, one := range []struct {
			name string
			most int
			take func(string, []byte) error
		}{{ConfigName, mostBytes, t.takeConfig}, {KeysName, mostKeys, t.takeKeys}} {
			file := filepath.Join(dir, one.name)
			text, found, readErr := read(file, one.most)
			if !found {
				continue
			}
			o := Outcome{File: file, What: Taken}
			sum := sumOf(one.name, text)
			switch {
			case readErr != nil:
				o.What, o.Err = Refused, readErr
			case slices.Contains(known, sum):
				o.What = Known
			default:
				if o.Err = one.take(file, text); o.Err != nil {
					o.What = Refused
					break
				}
				known = append(known, sum)
				if err := t.remember(known); err != nil {
					return append(all, o), err
				}
			}
			all = append(all, o)
		}
	}
	return all, nil
}

// read reads a regular file up to a size. found is false if there is none.
func read(file string, most int) (text []byte, found bool, err error) {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, err
	}
	if !info.Mode().IsRegular() {
		return nil, true, errors.New("it is no regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, true, err
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return text, true, err
}

// sumOf is what a file is remembered by.
func sumOf(name string, text []byte) string {
	sum := sha256.Sum256(append([]byte(name+"\x00"), text...))
	return hex.EncodeToString(sum[:])
}

// takeConfig puts a configuration in the place of the one that is there, which
// stays in the history.
func (t Target) takeConfig(file string, text []byte) error {
	if err := t.Check(text); err != nil {
		return err
	}
	h := history.In(filepath.Join(t.StateDir, "history"))
	if old, err := os.ReadFile(t.Config); err == nil && !bytes.Equal(old, text) {
		if _, err := h.Add(old, "before "+filepath.Base(file), time.Now()); err != nil {
			return err
		}
	}
	if err := write(t.Config, text); err != nil {
		return err
	}
	_, err := h.Add(text, "provisioned from "+strings.Map(printable, file), time.Now())
	return err
}

// takeKeys puts keys in the place of those that are there.
func (t Target) takeKeys(_ string, text []byte) error {
	if err := t.Keep(text); err != nil {
		return err
	}
	return write(t.Keys, text)
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

func write(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return wholefile.Write(file, text, 0o600)
}

func (t Target) sums() string { return filepath.Join(t.StateDir, "provisioned") }

// known are the sums of what was taken, oldest first.
func (t Target) known() ([]string, error) {
	text, err := os.ReadFile(t.sums())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was provisioned before: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func (t Target) remember(known []string) error {
	known = known[max(0, len(known)-mostKnown):]
	if err := write(t.sums(), []byte(strings.Join(known, "\n")+"\n")); err != nil {
		return fmt.Errorf("remember what was provisioned: %w", err)
	}
	return nil
}
