package flash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Disk is a disk of this machine.
type Disk struct {
	Name      string `json:"name"` // as sdb
	Path      string `json:"path"` // as /dev/sdb
	Size      int64  `json:"bytes"`
	Model     string `json:"model"`
	Removable bool   `json:"removable"`
	// Refused says why it must not be written to; "" if it may.
	Refused string `json:"refused,omitempty"`
}

// Host is where the kernel tells about its disks; tests have their own.
type Host struct {
	Sys  string // "/sys"
	Proc string // "/proc"
	Dev  string // "/dev"
}

// ThisHost is the machine we run on.
func ThisHost() Host { return Host{Sys: "/sys", Proc: "/proc", Dev: "/dev"} }

// Disks lists all disks that have a medium, in the order of their names.
func (h Host) Disks() ([]Disk, error) {
	dirs, err := os.ReadDir(filepath.Join(h.Sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("list the disks: %w", err)
	}
	used, err := h.uses()
	if err != nil {
		return nil, err
	}
	var all []Disk
	for _, d := range dirs {
		disk, err := h.disk(d.Name(), used)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Name(), err)
		}
		if disk.Size > 0 && !virtual(d.Name()) {
			all = append(all, disk)
		}
	}
	slices.SortFunc(all, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Find is the disk of a path, which may be a link in /dev/disk. A partition is
// refused by the name of its disk.
func (h Host) Find(path string) (Disk, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Disk{}, err
	}
	all, err := h.Disks()
	if err != nil {
		return Disk{}, err
	}
	for _, d := range all {
		if d.Path == real {
			return d, nil
		}
		if _, err := os.Stat(filepath.Join(h.Sys, "block", d.Name, filepath.Base(real), "partition")); err == nil {
			return Disk{}, fmt.Errorf("%s is a partition: an image is for a whole disk, which is %s", path, d.Path)
		}
	}
	return Disk{}, fmt.Errorf("%s is no disk of this machine", path)
}

// virtual are block devices that are no disks: what is in them would be lost on the way.
func virtual(name string) bool {
	return slices.ContainsFunc([]string{"loop", "ram", "zram", "dm-", "md", "sr", "fd"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (h Host) disk(name string, used map[string]string) (Disk, error) {
	dir := filepath.Join(h.Sys, "block", name)
	sectors, err := strconv.ParseInt(h.word(dir, "size"), 10, 64)
	if err != nil {
		return Disk{}, fmt.Errorf("read its size: %w", err)
	}
	d := Disk{Name: name, Path: filepath.Join(h.Dev, strings.ReplaceAll(name, "!", "/")), Size: sectors * 512,
		Model:     h.model(dir),
		Removable: h.word(dir, "removable") == "1"}
	if h.word(dir, "ro") == "1" {
		d.Refused = "it is write-protected"
	}
	if why, err := h.inUse(dir, used, 0); err != nil || why != "" {
		d.Refused = why
		return d, err
	}
	return d, nil
}

// model is what a person knows a disk by.
func (h Host) model(dir string) string {
	vendor := h.word(dir, "device/vendor")
	if strings.HasPrefix(vendor, "0x") {
		vendor = "" // a number, as virtio has
	}
	if m := strings.TrimSpace(vendor + " " + h.word(dir, "device/model")); m != "" {
		return m
	}
	return h.word(dir, "device/name") // MMC
}

// word is the content of a small file, "" if it is not there.
func (h Host) word(dir, name string) string {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// inUse tells what a block device, its partitions, and what is built on them
// (LVM, RAID, encryption) are used for.
func (h Host) inUse(dir string, used map[string]string, depth int) (string, error) {
	if why, ok := used[h.word(dir, "dev")]; ok {
		return why, nil
	}
	if why, ok := used[filepath.Join(h.Dev, filepath.Base(dir))]; ok {
		return why, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		part := filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(part, "partition")); err == nil && depth == 0 {
			if why, err := h.inUse(part, used, depth+1); why != "" || err != nil {
				return why, err
			}
		}
	}
	holders, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if len(holders) > 0 {
		return fmt.Sprintf("%s is built on %s", holders[0].Name(), filepath.Base(dir)), nil
	}
	return "", nil
}

// uses says what block devices are mounted or swapped to, by their numbers
// ("8:1") and by their paths: a btrfs shows numbers of its own.
func (h Host) uses() (map[string]string, error) {
	mounts, err := os.ReadFile(filepath.Join(h.Proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	used := map[string]string{}
	for line := range strings.Lines(string(mounts)) {
		noteMount(used, strings.Fields(line))
	}
	swaps, err := os.ReadFile(filepath.Join(h.Proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what is swapped to: %w", err)
	}
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/") {
			used[f[0]] = f[0] + " is used for swapping"
		}
	}
	return used, nil
}

// noteMount takes a line of mountinfo (proc_pid_mountinfo(5)): the number is
// field 3, the mount point field 5, the source the second behind "-".
func noteMount(used map[string]string, f []string) {
	dash := slices.Index(f, "-")
	if len(f) < 5 || dash < 0 || dash+2 >= len(f) {
		return
	}
	why := fmt.Sprintf("%s is mounted on %s", f[dash+2], f[4])
	if f[4] == "/" {
		why = "this system runs from it"
	}
	for _, key := range []string{f[2], f[dash+2]} {
		if _, known := used[key]; !known || f[4] == "/" {
			used[key] = why
		}
	}
}
