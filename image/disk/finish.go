package disk

import (
	"encoding/binary"
	"fmt"
	"os"
)

// finishFAT puts right what go-diskfs 1.9.4 leaves: ".." of a directory in the
// root must say cluster 0, not 2 (fsck.fat calls it invalid); FSInfo should know the free
// clusters, without which Linux counts them at the first statfs; and times
// are those of no clock.
func finishFAT(f *os.File, start, size int64) error {
	v, err := openFAT(f, start, size)
	if err != nil {
		return err
	}
	used, err := v.walk(func(n node) error { return v.finish(f, n) })
	if err != nil {
		return fmt.Errorf("finish the EFI system partition: %w", err)
	}
	return v.writeInfo(f, uint32(int(v.clusters)-used))
}

// dosEpoch is 1980-01-01, the first day of FAT.
const dosEpoch = 1<<5 | 1

func (v *volume) finish(f *os.File, n node) error {
	e := make([]byte, entrySize)
	if _, err := f.ReadAt(e, n.At); err != nil {
		return err
	}
	e[13] = 0 // tenths of a second
	for _, at := range []int{14, 22} {
		binary.LittleEndian.PutUint16(e[at:], 0)
		binary.LittleEndian.PutUint16(e[at+2:], dosEpoch)
	}
	binary.LittleEndian.PutUint16(e[18:], dosEpoch)
	if n.Short == ".." && n.Cluster == v.root {
		binary.LittleEndian.PutUint16(e[20:], 0)
		binary.LittleEndian.PutUint16(e[26:], 0)
	}
	_, err := f.WriteAt(e, n.At)
	return err
}

func (v *volume) writeInfo(f *os.File, free uint32) error {
	var next uint32 = 2
	for c, to := range v.fat {
		if to != 0 {
			next = uint32(c)
		}
	}
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], free)
	binary.LittleEndian.PutUint32(b[4:], next)
	for _, at := range []int64{v.info, v.backup + v.info} {
		if _, err := f.WriteAt(b[:], v.start+at+488); err != nil {
			return err
		}
	}
	return nil
}
