package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/bundle"
)

// Update is what Install has to know about the box.
type Update struct {
	Running   bundle.Release
	Slot      Slot                            // that runs
	Downgrade bool                            // an older build is meant
	Progress  func(name string, n, all int64) // bytes so far; nil is silent
}

// staging is where a new slot is written, so that the old one lives until the
// new one is known to be whole. The files stay afterwards, with what the slot had: to
// write over them again changes no allocation, and a power cut can then leave no
// lost clusters.
const staging = "staging"

// writing is there from the first byte of an update until its files are in the slot. Found later, it says that the
// power went then, and what FAT may have of a file: more clusters in the chain than the size says, which the kernel
// notices when the file grows; fewer; or one chain under two names, of which a later update would write over
// the one and mean the other. None of this can be mended, only removed, and at once, before anybody is given the same
// clusters. It's an empty file, not another name for theirs: of a name that changes, a cut may leave both. In upper
// case it takes one entry of the directory.
const writing = "WRITING"

// spare is what must be free beyond the files, in bytes: directories and entries.
const spare = 256 << 10

// Install writes a bundle into the slot that does not run and makes its entry
// appear, which the loader will try Tries times. After an error the box
// boots what it would have booted before.
func (p *ESP) Install(b *bundle.Bundle, u Update) (Slot, error) {
	own, err := p.acceptable(b.Manifest, u)
	if err != nil {
		return "", err
	}
	to := u.Slot.Other()
	if err := p.Recover(u.Slot); err != nil { // of one that has failed since the boot
		return "", err
	}
	if err := p.room(b.Manifest); err != nil {
		return "", err
	}
	if err := p.stage(b, u.Progress); err != nil {
		return "", err
	}
	if err := p.compare(b.Manifest, u.Progress); err != nil {
		return "", err
	}
	if err := p.removeEntries(to); err != nil {
		return "", err
	}
	if err := p.exchange(to); err != nil {
		return "", err
	}
	if err := p.unmark(); err != nil {
		return "", err
	}
	all, err := p.Entries()
	if err != nil {
		return "", err
	}
	options := b.Manifest.Options
	if options == "" {
		options = own.Options
	}
	return to, p.putEntry(Entry{
		Slot: to, Counted: true, Left: Tries, Release: b.Manifest.Release, Title: "Lastack " + b.Manifest.Release.String(),
		SortKey: own.SortKey, Sequence: next(all), Options: optionsFor(options, to),
	})
}

// acceptable tells why a bundle can't be installed here and now; it returns the running slot's entry.
func (p *ESP) acceptable(m bundle.Manifest, u Update) (Entry, error) {
	switch {
	case !u.Slot.Valid():
		return Entry{}, errors.New("it is not known which slot runs: the kernel's command line has no lastack.slot=")
	case m.Arch != u.Running.Arch:
		return Entry{}, fmt.Errorf("the bundle is for %s and this box is %s", m.Arch, u.Running.Arch)
	case u.Running.Build < m.MinFrom:
		return Entry{}, fmt.Errorf("the bundle wants build %d or newer on the box, and this is %s: install a release in between first", m.MinFrom, u.Running)
	case m.Build < u.Running.Build && !u.Downgrade:
		return Entry{}, fmt.Errorf("the bundle is older, %s, than what runs, %s (--downgrade if that is meant)", m.Release, u.Running)
	}
	own, ok, err := p.Entry(u.Slot)
	switch {
	case err != nil:
		return own, err
	case !ok:
		return own, fmt.Errorf("the running slot %s has no boot entry: nothing could be gone back to", u.Slot)
	case own.Counted:
		return own, fmt.Errorf("slot %s, which runs, is %s: wait until it is good, or `appliance update commit`", u.Slot, own.State())
	}
	return own, nil
}

// room checks that the files will fit.
func (p *ESP) room(m bundle.Manifest) error {
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return fmt.Errorf("look for free space: %w", err)
	}
	free := int64(st.Bavail) * st.Bsize
	need := int64(spare)
	for _, f := range m.Files {
		need += max(0, f.Size-p.sizeOf(staging, f.Name))
	}
	if need > free {
		return fmt.Errorf("the EFI partition has %d MB free and the update needs %d MB", free>>20, (need+1<<20-1)>>20)
	}
	return nil
}

func (p *ESP) sizeOf(dir, name string) int64 {
	st, err := os.Stat(filepath.Join(p.dir, dir, name))
	if err != nil {
		return 0
	}
	return st.Size()
}

// stage writes the files.
func (p *ESP) stage(b *bundle.Bundle, progress func(string, int64, int64)) error {
	if err := p.step("make staging"); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(p.dir, staging), 0o755); err != nil {
		return fmt.Errorf("make a place for the new slot: %w", err)
	}
	if err := p.mark(); err != nil {
		return err
	}
	var before int64
	for {
		f, r, err := b.Next()
		if errors.Is(err, io.EOF) {
			return p.sync(filepath.Join(p.dir, staging))
		}
		if err != nil {
			return err
		}
		count := &counter{from: r, tell: progress, name: "writing", n: before, all: b.Manifest.Size()}
		if err := p.stageFile(f, count); err != nil {
			return err
		}
		before += f.Size
	}
}

// Interrupted reports whether an update has come to no end.
func (p *ESP) Interrupted() bool {
	_, err := os.Stat(filepath.Join(p.dir, staging, writing))
	return err == nil
}

// Recover removes what an interrupted update has left, in the other slot too if that has no entry by
// then. It is to be the first to write after a power cut.
func (p *ESP) Recover(running Slot) error {
	if !p.Interrupted() {
		return nil
	}
	dirs := []string{filepath.Join(p.dir, staging)}
	if running.Valid() {
		_, ok, err := p.Entry(running.Other())
		if err != nil {
			return err
		}
		if !ok {
			dirs = append(dirs, p.slotDir(running.Other()))
		}
	}
	for _, dir := range dirs {
		for _, name := range []string{bundle.Kernel, bundle.Initrd} {
			if err := p.step("remove a part of " + name); err != nil {
				return err
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the part of an update that was cut off: %w", err)
			}
		}
	}
	return p.unmark()
}

// mark says that an update is being written.
func (p *ESP) mark() error {
	if err := p.step("mark the write"); err != nil {
		return err
	}
	dir := filepath.Join(p.dir, staging)
	if err := os.WriteFile(filepath.Join(dir, writing), nil, 0o644); err != nil {
		return fmt.Errorf("mark the write of an update: %w", err)
	}
	return p.sync(dir)
}

// unmark takes the mark away once everything else is on the disk.
func (p *ESP) unmark() error {
	dir := filepath.Join(p.dir, staging)
	if err := p.sync(dir); err != nil {
		return err
	}
	if err := p.step("unmark the write"); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, writing)); err != nil {
		return fmt.Errorf("unmark the write of an update: %w", err)
	}
	return p.sync(dir)
}

// stageFile writes over what is there, and only then cuts it to its new size.
func (p *ESP) stageFile(f bundle.File, from io.Reader) (err error) {
	if err := p.step("write " + f.Name); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(p.dir, staging, f.Name), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Name, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, from, make([]byte, 256<<10)); err != nil {
		return err // of the bundle or of the disk: both say which
	}
	if err := out.Truncate(f.Size); err != nil {
		return fmt.Errorf("write %s: %w", f.Name, err)
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("bring %s to the disk: %w", f.Name, err)
	}
	return nil
}

// compare reads the files back from the disk, not from memory.
func (p *ESP) compare(m bundle.Manifest, progress func(string, int64, int64)) error {
	var before int64
	for _, f := range m.Files {
		if err := p.step("compare " + f.Name); err != nil {
			return err
		}
		if err := p.compareFile(f, progress, before, m.Size()); err != nil {
			return err
		}
		before += f.Size
	}
	return nil
}

func (p *ESP) compareFile(f bundle.File, progress func(string, int64, int64), before, all int64) error {
	in, err := os.Open(filepath.Join(p.dir, staging, f.Name))
	if err != nil {
		return fmt.Errorf("read %s back: %w", f.Name, err)
	}
	defer in.Close()
	// What was synced is clean, and so the kernel drops it: posix_fadvise(2).
	if err := unix.Fadvise(int(in.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("read %s back: %w", f.Name, err)
	}
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, &counter{from: in, tell: progress, name: "comparing", n: before, all: all}, make([]byte, 256<<10))
	if err != nil {
		return fmt.Errorf("read %s back: %w", f.Name, err)
	}
	if n != f.Size || hex.EncodeToString(hash.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s is not on the disk as it was written: the disk loses data", f.Name)
	}
	return nil
}

// exchange puts the new files into the slot.
func (p *ESP) exchange(to Slot) error {
	if err := os.MkdirAll(p.slotDir(to), 0o755); err != nil {
		return fmt.Errorf("make the slot: %w", err)
	}
	for _, name := range []string{bundle.Kernel, bundle.Initrd} {
		if err := p.step("exchange " + name); err != nil {
			return err
		}
		from, at := filepath.Join(p.dir, staging, name), filepath.Join(p.slotDir(to), name)
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, at, unix.RENAME_EXCHANGE)
		if err != nil { // the slot is empty, or the kernel older than 6.0
			err = os.Rename(from, at)
		}
		if err != nil {
			return fmt.Errorf("put %s into slot %s: %w", name, to, err)
		}
	}
	return errors.Join(p.sync(p.slotDir(to)), p.sync(filepath.Join(p.dir, staging)))
}

// counter tells how far a copy is.
type counter struct {
	from   io.Reader
	tell   func(name string, n, all int64)
	name   string
	n, all int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	if c.tell != nil {
		c.tell(c.name, c.n, c.all)
	}
	return n, err
}
