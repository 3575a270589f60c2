package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	diskfs "github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/wholefile"
)

// content is what a partition holds.
type content int

const (
	blank   content = iota // zeros where a file system would begin
	ext4                   // an ext4 super block is where it belongs
	foreign                // something else: another file system, or a damaged one
)

func (c content) String() string { return [...]string{"blank", "ext4", "not ext4"}[c] }

// Where an ext4 has its magic number, in bytes: the super block is at 1024.
const (
	ext4Magic   = 0xEF53
	ext4MagicAt = 1024 + 56
	blankSize   = 1 << 20 // what a factory reset makes zero
)

// inspect tells what a partition holds. Only that decides whether it is formatted: a
// mount may fail for want of a module, with all data in order.
func inspect(device string) (content, error) {
	f, err := os.Open(device)
	if err != nil {
		return foreign, err
	}
	defer f.Close()
	head := make([]byte, blankSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return foreign, fmt.Errorf("read %s: %w", device, err)
	}
	switch {
	case binary.LittleEndian.Uint16(head[ext4MagicAt:]) == ext4Magic:
		return ext4, nil
	case bytes.Count(head, []byte{0}) == len(head):
		return blank, nil
	}
	return foreign, nil
}

// format makes an empty ext4, with a journal, on the whole of a partition.
func format(device string) error {
	d, err := diskfs.Open(device, diskfs.WithOpenMode(diskfs.ReadWrite))
	if err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	_, err = d.CreateFilesystem(disk.FilesystemSpec{Partition: 0, FSType: filesystem.TypeExt4, VolumeLabel: "DATA"})
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	return nil
}

// wipe makes a partition blank, for a factory reset.
func wipe(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, blankSize))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("wipe %s: %w", device, err)
	}
	return nil
}

// openData mounts the data partition, or a place in memory that is lost at the
// next boot if there's no way to. It is said loudly, in the log and in status.
func (b *Box) openData(p partition, reset bool) {
	err := b.prepareData(p.Device, reset)
	if err == nil {
		err = b.mountData(p.Device)
	}
	if err == nil {
		b.dataMounted = true
		return
	}
	b.problem("data", fmt.Sprintf("DATA IS NOT THERE: %v. Settings are the built-in ones and nothing is kept; a factory reset makes it anew", err))
	b.warn("data", b.mount("tmpfs", b.path("data"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=32m,mode=0755"))
}

// prepareData leaves an ext4 on the partition: what is there, checked, or a new one.
func (b *Box) prepareData(device string, reset bool) error {
	if device == "" {
		return errors.New("there is no partition named DATA")
	}
	if reset {
		b.log.Warn("FACTORY RESET: all settings, keys and logs are removed")
		if err := wipe(device); err != nil {
			return err
		}
	}
	what, err := inspect(device)
	if err != nil {
		return err
	}
	switch what {
	case blank:
		b.log.Info("first boot: making a file system for data", "device", device)
		return b.formatFed(device)
	case foreign:
		if b.rescue(device) {
			return nil
		}
		b.problem("data", "DATA WAS DAMAGED beyond repair (no super block is left) and has been made anew: settings and keys are those of the factory")
		return b.formatFed(device)
	}
	b.check(device)
	return nil
}

// formatFed keeps the watchdog quiet meanwhile: a large disk takes a while.
func (b *Box) formatFed(device string) error {
	return b.fedWhile(func() error { return format(device) })
}

// e2fsck's exit statuses, e2fsck(8).
const (
	fsckFixed   = 1 // errors were corrected
	fsckFailed  = 4 // errors were left; from here on, things are bad
	fsckProgram = "sbin/e2fsck"
)

// check runs e2fsck if the image has one, first as every boot does, then with
// yes to all. A journal alone mends what a power cut leaves; this is for worse.
func (b *Box) check(device string) {
	if _, err := os.Stat(b.path(fsckProgram)); err != nil {
		return
	}
	status, out := b.fsck("-p", device)
	if status < fsckFailed {
		if status&fsckFixed != 0 {
			b.log.Warn("the file system of DATA was repaired", "fsck", out)
		}
		return
	}
	b.problem("data", "DATA WAS DAMAGED: files may be missing, the log names them")
	b.log.Error("the file system of DATA is damaged, repairing", "fsck", out)
	status, out = b.fsck("-f", "-y", device)
	b.log.Warn("repaired what could be", "status", status, "fsck", out)
}

// rescue looks for a copy of the super block. The copy is of an old state and says that all is clean:
// only -f makes e2fsck look.
func (b *Box) rescue(device string) bool {
	if _, err := os.Stat(b.path(fsckProgram)); err != nil {
		return false
	}
	for _, at := range []string{"32768", "8193"} { // with blocks of 4096 and of 1024 bytes
		if status, out := b.fsck("-f", "-y", "-b", at, device); status < fsckFailed {
			b.problem("data", "DATA WAS DAMAGED: its super block was lost and made again from a copy")
			b.log.Warn("the file system of DATA was repaired", "fsck", out)
			return true
		}
	}
	return false
}

func (b *Box) mountData(device string) error {
	return b.mount(device, b.path("data"), "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro")
}

// readOnly is how a boot ends whose file system of DATA has found an error in itself.
const readOnly = "the file system of DATA has found an error and takes nothing more: e2fsck repairs it at the next boot"

// checkWritable boots the box again if DATA has become read-only (errors=remount-ro), once: if
// that doesn't help it goes on and says so.
func (b *Box) checkWritable() {
	var st unix.Statfs_t
	if !b.dataMounted || b.readOnly || unix.Statfs(b.path("data"), &st) != nil || st.Flags&unix.ST_RDONLY == 0 {
		return
	}
	b.readOnly = true
	b.problem("data", "DATA IS READ-ONLY: its file system has errors, nothing is kept")
	if !b.markReadOnly() {
		b.log.Error("it was so after the last boot too: a factory reset makes it anew")
		return
	}
	b.order(Order{Kind: Reboot, Why: readOnly})
}

// readOnlyMark on the EFI partition says that a boot was for the sake of e2fsck: DATA itself can't be told.
const readOnlyMark = "lastack.fsck"

// markReadOnly reports whether the mark was not there, and is now.
func (b *Box) markReadOnly() bool {
	if b.esp == nil {
		return false
	}
	mark := b.path(filepath.Join("esp", readOnlyMark))
	if st, err := os.Stat(mark); err == nil && time.Since(st.ModTime()) < time.Hour {
		return false
	}
	return b.writeESP(func() error { return wholefile.Write(mark, []byte(readOnly+"\n"), 0o600) }) == nil
}

// makeDirs makes the directories on DATA, each with its owner.
func (b *Box) makeDirs() {
	for _, d := range []struct {
		name string
		mode os.FileMode
		user int // who owns it; the appliance may read the log
	}{{"init", 0o700, 0}, {"log", 0o750, 0}, {"config", 0o750, User}, {"state", 0o750, User}} {
		dir := filepath.Join(b.path("data"), d.name)
		err := os.MkdirAll(dir, d.mode)
		if err == nil {
			err = os.Chmod(dir, d.mode)
		}
		if err == nil {
			err = b.chown(dir, d.user, User)
		}
		b.warn("data", err)
	}
}

// firstConfig gives the operator's configuration its beginning: the built-in one. Changes go to it from
// then on.
func (b *Box) firstConfig() {
	own := b.path(ConfigFile)
	if _, err := os.Stat(own); err == nil {
		return
	}
	text, err := os.ReadFile(b.path(DefaultConfig))
	if err == nil {
		err = wholefile.Write(own, text, 0o600)
	}
	if err == nil {
		err = b.chown(own, User, User)
	}
	b.warn("config", wrap("begin with the built-in configuration", err))
}
