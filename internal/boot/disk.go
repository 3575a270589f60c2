package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// partition is one of the two of our disk.
type partition struct {
	Device string // the file under /dev
	Number int    // in the partition table, 1 is the first
	disk   string // the kernel's name of the whole disk
}

// findDisk looks for a disk that has both partitions, by the names in its
// partition table. prefer is the unique GUID of the ESP that the loader came
// from, as the loader says it; "" if it doesn't. It decides between several disks.
func findDisk(root, prefer string) (esp, data partition, err error) {
	files, err := filepath.Glob(filepath.Join(root, "sys/class/block/*/uevent"))
	if err != nil {
		return esp, data, err
	}
	slices.Sort(files)
	found := make(map[string]map[string]partition) // by disk, by name
	var disks []string
	for _, file := range files {
		name, p := readPartition(root, file)
		if name != "ESP" && name != "DATA" {
			continue
		}
		if found[p.disk] == nil {
			found[p.disk] = make(map[string]partition)
			disks = append(disks, p.disk)
		}
		found[p.disk][name] = p
	}
	disks = slices.DeleteFunc(disks, func(d string) bool { return len(found[d]) < 2 })
	if len(disks) == 0 {
		return esp, data, errors.New("no disk with the partitions ESP and DATA")
	}
	disk := disks[0]
	for _, d := range disks {
		if e, err := readGPT(filepath.Join(root, "dev", d), found[d]["ESP"].Number); err == nil && strings.EqualFold(e.guid(), prefer) {
			disk = d
		}
	}
	return found[disk]["ESP"], found[disk]["DATA"], nil
}

// readPartition reads a uevent file, in which the kernel names the partition and its number.
func readPartition(root, file string) (name string, p partition) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", p
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "PARTNAME":
			name = value
		case "PARTN":
			p.Number, _ = strconv.Atoi(value)
		case "DEVNAME":
			p.Device = filepath.Join(root, "dev", value)
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return "", p
	}
	p.disk = filepath.Base(filepath.Dir(dir)) // .../block/vda/vda1
	return name, p
}

// gptEntry is one line of a partition table: UEFI 2.10, 5.3.3.
type gptEntry struct {
	Type   [16]byte
	Unique [16]byte
	First  uint64 // logical blocks
	Last   uint64
}

// guid is the unique GUID as it is written: the first three groups are little-endian.
func (e gptEntry) guid() string {
	g := e.Unique
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// readGPT reads the entry with a number, 1 is the first, from the disk.
func readGPT(disk string, number int) (e gptEntry, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return e, err
	}
	defer f.Close()
	for _, block := range []int64{512, 4096} {
		header := make([]byte, 92)
		if _, err := f.ReadAt(header, block); err != nil {
			return e, fmt.Errorf("read the partition table: %w", err)
		}
		if !bytes.HasPrefix(header, []byte("EFI PART")) {
			continue
		}
		at := int64(binary.LittleEndian.Uint64(header[72:])) * block
		count, size := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
		if number < 1 || uint32(number) > count || size < 128 || size > 4096 {
			return e, fmt.Errorf("the partition table has no entry %d", number)
		}
		r := io.NewSectionReader(f, at+int64(number-1)*int64(size), int64(size))
		if err := binary.Read(r, binary.LittleEndian, &e); err != nil {
			return e, fmt.Errorf("read the partition table: %w", err)
		}
		return e, nil
	}
	return e, errors.New("the disk has no GPT")
}
