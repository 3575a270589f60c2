package slot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// ESP is the EFI system partition, mounted somewhere.
type ESP struct {
	dir  string
	step func(what string) error // before each change; tests cut the power here
}

// At is the partition mounted at dir.
func At(dir string) *ESP { return &ESP{dir: dir, step: func(string) error { return nil }} }

func (p *ESP) entryDir() string         { return filepath.Join(p.dir, "loader", "entries") }
func (p *ESP) slotDir(s Slot) string    { return filepath.Join(p.dir, string(s)) }
func (p *ESP) entryPath(e Entry) string { return filepath.Join(p.entryDir(), e.Name()) }

// Entries reads the entries of both slots, in the order of their names. Others are left out.
func (p *ESP) Entries() ([]Entry, error) {
	files, err := os.ReadDir(p.entryDir())
	if err != nil {
		return nil, fmt.Errorf("read the boot entries: %w", err)
	}
	var all []Entry
	for _, f := range files {
		e, ok := parseName(f.Name())
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(p.entryDir(), f.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the boot entries: %w", err)
		}
		e.parseText(text)
		all = append(all, e)
	}
	return all, nil
}

// Entry is that of one slot; ok is false if it has none. Should there be several the
// one without a counter counts.
func (p *ESP) Entry(s Slot) (e Entry, ok bool, err error) {
	all, err := p.Entries()
	for _, one := range all {
		if one.Slot == s && (!ok || !one.Counted) {
			e, ok = one, true
		}
	}
	return e, ok, err
}

// Bless marks a slot as good. It says whether that is news.
func (p *ESP) Bless(s Slot) (bool, error) {
	return p.recount(s, func(e Entry) (Entry, bool) {
		good := e
		good.Counted, good.Left, good.Done = false, 0, 0
		return good, e.Counted
	})
}

// GiveUp takes the tries from a slot that is on trial: the next boot is the other one's.
func (p *ESP) GiveUp(s Slot) (bool, error) {
	return p.recount(s, func(e Entry) (Entry, bool) {
		bad := e
		bad.Left, bad.Done = 0, max(e.Done, 1)
		return bad, e.Counted && e.Left > 0
	})
}

// recount renames the entry of a slot if change says so.
func (p *ESP) recount(s Slot, change func(Entry) (Entry, bool)) (bool, error) {
	e, ok, err := p.Entry(s)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, fmt.Errorf("slot %s has no boot entry", s)
	}
	to, news := change(e)
	if !news {
		return false, nil
	}
	if err := p.step("rename"); err != nil {
		return false, err
	}
	if err := os.Rename(p.entryPath(e), p.entryPath(to)); err != nil {
		return false, fmt.Errorf("rename the boot entry: %w", err)
	}
	return true, p.sync(p.entryDir())
}

// Prefer makes a good slot the one that is booted next, and from then on.
func (p *ESP) Prefer(s Slot) error {
	all, err := p.Entries()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(e Entry) bool { return e.Slot == s })
	if at < 0 {
		return fmt.Errorf("slot %s is empty: there is nothing to go back to", s)
	}
	e := all[at]
	if e.Counted {
		return fmt.Errorf("slot %s is not good (%s): there is nothing to go back to", s, e.State())
	}
	e.Sequence = next(all)
	return p.putEntry(e)
}

// next is a sequence number above all.
func next(all []Entry) uint64 {
	var most uint64
	for _, e := range all {
		most = max(most, e.Sequence)
	}
	return most + 1
}

// putEntry makes an entry appear whole, or replaces it. The loader reads
// only what ends with .conf.
func (p *ESP) putEntry(e Entry) error {
	tmp := filepath.Join(p.entryDir(), e.Slot.id()+".new")
	if err := p.step("write entry"); err != nil {
		return err
	}
	if err := writeSynced(tmp, e.Text()); err != nil {
		return fmt.Errorf("write the boot entry: %w", err)
	}
	if err := p.step("entry appears"); err != nil {
		return err
	}
	if err := os.Rename(tmp, p.entryPath(e)); err != nil {
		return fmt.Errorf("write the boot entry: %w", err)
	}
	return p.sync(p.entryDir())
}

func writeSynced(path string, text []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// removeEntries makes a slot unbootable.
func (p *ESP) removeEntries(s Slot) error {
	all, err := p.Entries()
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Slot != s {
			continue
		}
		if err := p.step("remove entry"); err != nil {
			return err
		}
		if err := os.Remove(p.entryPath(e)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the old boot entry: %w", err)
		}
	}
	return p.sync(p.entryDir())
}

// sync brings a directory, and the rest of the partition, to the disk: fsync(2)
// of a FAT directory does not say what becomes of the allocation table.
func (p *ESP) sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("bring %s to the disk: %w", dir, err)
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("bring %s to the disk: syncfs: %w", dir, err)
	}
	return nil
}
