package disk

import (
	"fmt"
	"os"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Stretch moves the second partition table to the end of a disk that is larger
// than the image on it, where it belongs (UEFI 2.10, 5.3.2). size is the
// disk's, in bytes. The partitions stay as they are.
func Stretch(f *os.File, size int64) error {
	old, err := gpt.Read(file.New(f, false), sector, sector)
	if err != nil {
		return fmt.Errorf("read the partition table: %w", err)
	}
	end := int64(mib)
	for _, p := range old.Partitions {
		if p.Type != gpt.Unused {
			end = max(end, int64(p.End+1)*sector)
		}
	}
	if size < end+tail {
		return fmt.Errorf("the disk of %d bytes has no room for the second partition table", size)
	}
	// A rest of the old one might be taken for the table of a smaller disk.
	if _, err := f.WriteAt(make([]byte, tail), end); err != nil {
		return err
	}
	fresh := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: old.GUID, Partitions: old.Partitions}
	if err := fresh.Write(f, size); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	return nil
}
