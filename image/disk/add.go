package disk

import (
	"fmt"
	"os"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// Add puts files on the EFI system partition of an image or a disk, in place of those
// that are there by their names, and checks it afterwards. Nothing else may use
// the disk meanwhile.
func Add(f *os.File, files []File) error {
	img, err := Check(f)
	if err != nil {
		return err
	}
	v := img.esp
	fsys, err := fat32.Read(file.New(f, false), v.size, v.start, sector)
	if err != nil {
		return fmt.Errorf("read the EFI system partition: %w", err)
	}
	for _, one := range files {
		if err := writeFile(fsys, one); err != nil {
			return err
		}
	}
	if err := finishFAT(f, v.start, v.size); err != nil {
		return err
	}
	_, err = Check(f)
	return err
}
