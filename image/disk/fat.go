package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// volume is a FAT32 file system, read without trust (Microsoft's "FAT: General
// Overview of On-Disk Format", 1.03).
type volume struct {
	r     io.ReaderAt
	start int64 // of the volume in r, bytes
	size  int64 // of its partition

	cluster   int64 // bytes
	data      int64 // where cluster 2 begins, from start
	clusters  uint32
	fat       []uint32
	fatOffset [2]int64
	fatSize   int64
	root      uint32
	info      int64 // the FSInfo sector, from start
	backup    int64 // the boot sector's copy, from start
}

const (
	endOfChain = 0x0ffffff8
	fatMask    = 0x0fffffff
	entrySize  = 32

	attrVolume = 0x08
	attrDir    = 0x10
	attrLong   = 0x0f
)

func openFAT(r io.ReaderAt, start, size int64) (*volume, error) {
	boot := make([]byte, sector)
	if _, err := r.ReadAt(boot, start); err != nil {
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	v := &volume{r: r, start: start, size: size}
	if err := v.layout(boot); err != nil {
		return nil, err
	}
	table, err := v.readFAT(0)
	if err != nil {
		return nil, err
	}
	v.fat = table
	return v, nil
}

// layout takes the sizes from the boot sector, and refuses those that
// contradict each other.
func (v *volume) layout(boot []byte) error {
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(boot[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(boot[at:])) }
	perCluster, reserved, sectors := int64(boot[13]), u16(14), u32(32)
	v.fatSize, v.root = u32(36)*sector, uint32(u32(44))
	v.info, v.backup = u16(48)*sector, u16(50)*sector
	switch {
	case u16(510) != 0xaa55 || u16(11) != sector || perCluster == 0 || perCluster&(perCluster-1) != 0 || boot[16] != 2:
		return errors.New("the boot sector is not one of FAT32 with sectors of 512 bytes and two tables")
	case u16(17) != 0 || u16(22) != 0 || v.fatSize == 0:
		return errors.New("the boot sector is one of FAT12 or FAT16")
	case sectors*sector > v.size:
		return fmt.Errorf("the file system has %d sectors, its partition %d", sectors, v.size/sector)
	case v.info < sector || v.backup < sector || v.info >= reserved*sector || v.backup >= reserved*sector:
		return errors.New("the boot sector has no place for its copy or its FSInfo sector")
	}
	v.cluster = perCluster * sector
	v.fatOffset = [2]int64{reserved * sector, reserved*sector + v.fatSize}
	v.data = reserved*sector + 2*v.fatSize
	n := (sectors*sector - v.data) / v.cluster
	if n < 65525 {
		return fmt.Errorf("%d clusters are too few for FAT32: firmware would take it for FAT16", n)
	}
	if n > v.fatSize/4-2 {
		return fmt.Errorf("the table has %d entries, the file system %d clusters", v.fatSize/4-2, n)
	}
	v.clusters = uint32(n)
	return nil
}

func (v *volume) readFAT(i int) ([]uint32, error) {
	raw := make([]byte, v.fatSize)
	if _, err := v.r.ReadAt(raw, v.start+v.fatOffset[i]); err != nil {
		return nil, fmt.Errorf("read table %d: %w", i+1, err)
	}
	table := make([]uint32, v.clusters+2)
	for c := range table {
		table[c] = binary.LittleEndian.Uint32(raw[4*c:]) & fatMask
	}
	return table, nil
}

// chain is all clusters of a file, in order.
func (v *volume) chain(first uint32) ([]uint32, error) {
	var all []uint32
	for c := first; ; c = v.fat[c] {
		if c < 2 || c >= v.clusters+2 {
			return nil, fmt.Errorf("cluster %d is none of 2 to %d", c, v.clusters+1)
		}
		if len(all) > int(v.clusters) {
			return nil, errors.New("the chain of clusters is a circle")
		}
		all = append(all, c)
		if v.fat[c] >= endOfChain {
			return all, nil
		}
	}
}

// offset is where a cluster lies in r.
func (v *volume) offset(cluster uint32) int64 {
	return v.start + v.data + int64(cluster-2)*v.cluster
}

// dirent is one entry of a directory.
type dirent struct {
	Name    string // the long one, if it has one
	Short   string // as "BOOTX64.EFI"
	Attr    byte
	Cluster uint32 // 0 if the file is empty
	Size    int64
	At      int64 // where its 32 bytes lie in r
}

func (d dirent) isDir() bool { return d.Attr&attrDir != 0 }

// list reads a directory whose chain is given.
func (v *volume) list(chain []uint32) ([]dirent, error) {
	var out []dirent
	var long longName
	buf := make([]byte, v.cluster)
	for _, c := range chain {
		if _, err := v.r.ReadAt(buf, v.offset(c)); err != nil {
			return nil, err
		}
		for at := int64(0); at < v.cluster; at += entrySize {
			e := buf[at : at+entrySize]
			switch {
			case e[0] == 0:
				return out, nil
			case e[0] == 0xe5: // deleted
				long = longName{}
			case e[11]&0x3f == attrLong:
				long.add(e)
			default:
				d := parseDirent(e, v.offset(c)+at)
				if d.Name = d.Short; long.valid(e[:11]) {
					d.Name = long.String()
				}
				out = append(out, d)
				long = longName{}
			}
		}
	}
	return out, nil
}

func parseDirent(e []byte, at int64) dirent {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if e[12]&0x08 != 0 { // Windows NT: the name is in lower case
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	high, low := binary.LittleEndian.Uint16(e[20:]), binary.LittleEndian.Uint16(e[26:])
	return dirent{Short: base, Attr: e[11], Cluster: uint32(high)<<16 | uint32(low), Size: int64(binary.LittleEndian.Uint32(e[28:])), At: at}
}

// longName gathers a name from the entries before the one it belongs to; the
// last part comes first.
type longName struct {
	parts [][]uint16
	sum   byte
}

func (l *longName) add(e []byte) {
	if e[0]&0x40 != 0 {
		l.parts, l.sum = nil, e[13]
	}
	var part []uint16
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		part = append(part, binary.LittleEndian.Uint16(e[at:]))
	}
	l.parts = append(l.parts, part)
}

// valid says whether the name belongs to this short name.
func (l *longName) valid(short []byte) bool {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return len(l.parts) > 0 && sum == l.sum
}

func (l *longName) String() string {
	var all []uint16
	for i := len(l.parts) - 1; i >= 0; i-- {
		for _, c := range l.parts[i] {
			if c == 0 || c == 0xffff {
				return string(utf16.Decode(all))
			}
			all = append(all, c)
		}
	}
	return string(utf16.Decode(all))
}
