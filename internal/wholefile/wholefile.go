// Package wholefile writes a file whole or not at all, also if the power is cut
// meanwhile: text goes into a draft beside the file, which then takes its name. A
// draft that a cut has left is removed by the next write of the same file. It
// has no goroutine and keeps nothing.
package wholefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Write makes text the content of a file, durably: the draft is synced, renamed, and
// the directory synced, without which a power cut takes the new name back seconds
// after somebody was told that the file is there. It may be called by several
// processes at once: one of them is the last.
//
// Nothing that is there already is written to, nor waited for: the directory may be
// that of a process which is trusted less, and which could have put a link to
// anything there, or hold a lock for ever.
func Write(file string, text []byte, mode fs.FileMode) error {
	dir, err := os.Open(filepath.Dir(file)) // before anything is changed: it may not be ours to read
	if err != nil {
		return err
	}
	defer dir.Close() // only read: nothing can be lost
	sweep(file)
	f, err := draft(file)
	if err != nil {
		return err
	}
	defer f.Close() // and with it goes the lock; what it holds is on the disk by then
	_, err = f.Write(text)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := dir.Sync(); !errors.Is(err, syscall.EINVAL) { // which is a file system that can't
		return err
	}
	return nil
}

// A draft is named .FILE.DIGITS.new: the digits as os.CreateTemp chooses them, and the end so that
// no editor's file is taken for one.
const end = ".new"

func begin(file string) string { return "." + filepath.Base(file) + "." }

// draft makes a file of a new name and locks it, which tells others that it is being written.
func draft(file string) (*os.File, error) {
	for range 10 { // others that sweep are few; who sweeps on purpose is not to hold us up for ever
		f, err := os.CreateTemp(filepath.Dir(file), begin(file)+"*"+end)
		if err != nil {
			return nil, err
		}
		locked := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		// Before it was locked, another process may have taken it for one that was left. Where files cannot
		// be locked at all, none is ever swept.
		if !errors.Is(locked, syscall.EWOULDBLOCK) && info.Sys().(*syscall.Stat_t).Nlink > 0 {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("write %s: another process removes what is written beside it", file)
}

// sweep removes the drafts of a file that nobody is writing. What cannot be removed harms nobody but
// by its size, and stays.
func sweep(file string) {
	beside, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return
	}
	for _, e := range beside {
		if e.Type().IsRegular() && isDraft(file, e.Name()) {
			removeLeft(filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
}

func isDraft(file, name string) bool {
	digits, begins := strings.CutPrefix(name, begin(file))
	digits, ends := strings.CutSuffix(digits, end)
	return begins && ends && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// removeLeft removes a draft unless it is locked: who has locked it is alive.
func removeLeft(name string) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		_ = os.Remove(name) // the next write tries again
	}
}
