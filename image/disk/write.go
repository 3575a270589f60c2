package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/lastack/lastack/image"
)

const (
	sector = 512
	mib    = 1 << 20
	// firstSector leaves 1 MiB before the first partition, which suits every
	// flash's erase blocks.
	firstSector = mib / sector
	// tail holds the second GPT.
	tail = mib
)

// DataSize is the data partition's size in bytes: configurations, history and
// bounded logs.
const DataSize = 256 * mib

// File is a file for the EFI system partition.
type File struct {
	Path string // as /A/vmlinuz
	Data []byte
}

// espSizes are those that a partition may have. From 264 MiB on clusters are of 4 KiB,
// with which firmware loads a kernel faster than with 512 bytes.
func espSizes() []int64 { return []int64{288 * mib, 512 * mib, 1024 * mib} }

// espSize is the smallest size that holds the content three times: two slots,
// and what an update needs beside them.
func espSize(files []File) (int64, error) {
	var sum int64
	for _, f := range files {
		sum += int64(len(f.Data))
	}
	for _, size := range espSizes() {
		if 3*sum+16*mib <= size {
			return size, nil
		}
	}
	return 0, fmt.Errorf("the content of %d MiB is too large for an EFI system partition", sum/mib)
}

// Write makes a disk image at name, which must not exist. What can't be written whole is removed.
func Write(name string, files []File) (err error) {
	esp, err := espSize(files)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	total := int64(mib) + esp + DataSize + tail
	if err := f.Truncate(total); err != nil {
		return err
	}
	if err := table(esp).Write(f, total); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	if err := writeESP(file.New(f, false), esp, files); err != nil {
		return fmt.Errorf("write the EFI system partition: %w", err)
	}
	return finishFAT(f, mib, esp)
}

func table(esp int64) *gpt.Table {
	espEnd := uint64(firstSector + esp/sector - 1)
	return &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: image.DiskGUID,
		Partitions: []*gpt.Partition{
			{Index: 1, Start: firstSector, End: espEnd, Type: gpt.EFISystemPartition, Name: image.ESPName, GUID: image.ESPGUID},
			{Index: 2, Start: espEnd + 1, End: espEnd + DataSize/sector, Type: gpt.LinuxFilesystem, Name: image.DataName, GUID: image.DataGUID},
		},
	}
}

func writeESP(b backend.Storage, size int64, files []File) error {
	fsys, err := fat32.Create(b, size, mib, sector, "LASTACK", true)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := writeFile(fsys, f); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(fsys *fat32.FileSystem, f File) error {
	if dir := path.Dir(f.Path); dir != "/" {
		if err := fsys.Mkdir(dir[1:]); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	// Not Remove for a file that is there: go-diskfs would leave its clusters taken.
	out, err := fsys.OpenFile(f.Path[1:], os.O_CREATE|os.O_RDWR|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("make %s: %w", f.Path, err)
	}
	_, err = io.Copy(out, bytes.NewReader(f.Data))
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return nil
}
