package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/lastack/lastack/image"
)

// Contents is what Check found.
type Contents struct {
	Partitions []Partition
	Files      []Found // of the EFI system partition
	Free       int64   // bytes left there
}

// Found is a file on the EFI system partition.
type Found struct {
	Path string
	Size int64
	node node
}

// Image is a disk image that has been checked and can be read.
type Image struct {
	Contents
	esp *volume
}

// Check reads every structure of an image or a disk: both partition tables with
// their CRCs, the file system's two tables, each chain of clusters, each
// directory, and that there are no clusters without an owner.
func Check(r io.ReaderAt) (*Image, error) {
	parts, err := readGPT(r)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(parts, func(p Partition) bool { return p.Name == image.ESPName })
	if i < 0 || !slices.ContainsFunc(parts, func(p Partition) bool { return p.Name == image.DataName }) {
		return nil, fmt.Errorf("there are no partitions of the names %s and %s", image.ESPName, image.DataName)
	}
	v, err := openFAT(r, parts[i].Start, parts[i].Size)
	if err != nil {
		return nil, fmt.Errorf("the EFI system partition: %w", err)
	}
	img := &Image{Contents: Contents{Partitions: parts}, esp: v}
	if err := img.checkFAT(); err != nil {
		return nil, fmt.Errorf("the EFI system partition: %w", err)
	}
	return img, nil
}

func (i *Image) checkFAT() error {
	if err := i.esp.checkCopies(); err != nil {
		return err
	}
	used, err := i.esp.walk(func(n node) error {
		if !n.isDir() && n.Attr&attrVolume == 0 {
			i.Files = append(i.Files, Found{Path: n.Path, Size: n.Size, node: n})
		}
		return i.esp.checkNode(n)
	})
	if err != nil {
		return err
	}
	return i.checkFree(used)
}

// checkCopies compares the file system's two tables and two boot sectors.
func (v *volume) checkCopies() error {
	second, err := v.readFAT(1)
	if err != nil {
		return err
	}
	if !slices.Equal(v.fat[2:], second[2:]) {
		return errors.New("the two tables differ: a write was cut off")
	}
	var a, b [sector]byte
	if _, err := v.r.ReadAt(a[:], v.start); err != nil {
		return err
	}
	if _, err := v.r.ReadAt(b[:], v.start+v.backup); err != nil {
		return err
	}
	// Linux marks a mounted volume in the first one only (byte 65).
	a[65], b[65] = 0, 0
	if !bytes.Equal(a[:], b[:]) {
		return errors.New("the boot sector differs from its copy")
	}
	return nil
}

func (v *volume) checkNode(n node) error {
	switch {
	case n.Short == "." && n.Cluster != n.Parent:
		return fmt.Errorf("says cluster %d, its directory is %d", n.Cluster, n.Parent)
	case n.Short == "..":
		return v.checkDotDot(n)
	case n.Attr&attrVolume != 0 || n.isDir():
		return nil
	case n.Size > 0 && n.Cluster == 0:
		return fmt.Errorf("has %d bytes and no cluster", n.Size)
	case int64(len(n.Chain)) != (n.Size+v.cluster-1)/v.cluster && n.Size > 0:
		return fmt.Errorf("has %d bytes in %d clusters", n.Size, len(n.Chain))
	}
	return nil
}

// checkDotDot: the parent of a directory in the root is cluster 0, whatever the
// root's cluster is.
func (v *volume) checkDotDot(n node) error {
	if n.Cluster == v.root {
		return errors.New("says the root's cluster, must be 0")
	}
	if n.Cluster != 0 && (n.Cluster < 2 || n.Cluster >= v.clusters+2) {
		return fmt.Errorf("says cluster %d, which is none", n.Cluster)
	}
	return nil
}

func (i *Image) checkFree(used int) error {
	v, free := i.esp, 0
	for _, to := range v.fat[2:] {
		if to == 0 {
			free++
		}
	}
	if lost := int(v.clusters) - free - used; lost != 0 {
		return fmt.Errorf("%d clusters belong to no file", lost)
	}
	i.Free = int64(free) * v.cluster
	var info [sector]byte
	if _, err := v.r.ReadAt(info[:], v.start+v.info); err != nil {
		return err
	}
	said := binary.LittleEndian.Uint32(info[488:])
	if said != 0xffffffff && int(said) != free {
		return fmt.Errorf("FSInfo says %d free clusters, there are %d", said, free)
	}
	return nil
}

// ReadFile is the content of a file on the EFI system partition.
func (i *Image) ReadFile(name string) ([]byte, error) {
	for _, f := range i.Files {
		if f.Path == name {
			return i.esp.read(f.node)
		}
	}
	return nil, fmt.Errorf("%s on the EFI system partition: %w", name, fs.ErrNotExist)
}
