package inspect

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/cpio"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/kmod"
)

// Summary is what an image is.
type Summary struct {
	Arch       image.Arch       `json:"arch"`
	Partitions []disk.Partition `json:"partitions"`
	Free       int64            `json:"free_bytes"` // on the EFI system partition
	Entries    []Entry          `json:"entries"`
	Provision  []string         `json:"provision,omitempty"` // files that the first boot will take
}

// Entry is a boot entry and what it boots.
type Entry struct {
	File    string         `json:"file"`
	Title   string         `json:"title"`
	Release bundle.Release `json:"release"`
	Kernel  Sum            `json:"kernel"`
	Initrd  Sum            `json:"initrd"`
	Modules int            `json:"modules"`
}

// Sum is a file's.
type Sum struct {
	Path   string `json:"path"`
	Size   int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Look reads an image or a disk whole. All that is wrong with its entries is in the error.
func Look(r io.ReaderAt) (*Summary, error) {
	img, err := disk.Check(r)
	if err != nil {
		return nil, err
	}
	s := &Summary{Partitions: img.Partitions, Free: img.Free}
	if s.Arch, err = archOf(img); err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range img.Files {
		switch {
		case path.Dir(f.Path) == image.EntriesDir && path.Ext(f.Path) == ".conf":
			e, err := lookAt(img, f.Path, s.Arch)
			if err != nil {
				errs = append(errs, fmt.Errorf("boot entry %s: %w", path.Base(f.Path), err))
			}
			s.Entries = append(s.Entries, e)
		case f.Path == image.ProvisionConfig || f.Path == image.ProvisionKeys:
			s.Provision = append(s.Provision, f.Path)
		}
	}
	if len(s.Entries) == 0 {
		errs = append(errs, errors.New("there is no boot entry"))
	}
	return s, errors.Join(errs...)
}

// archOf goes by the loader that is there.
func archOf(img *disk.Image) (image.Arch, error) {
	for _, a := range image.Arches() {
		if loader, err := img.ReadFile(a.BootFile()); err == nil {
			if machine(loader) != a {
				return "", fmt.Errorf("%s is no program for %s", a.BootFile(), a)
			}
			return a, nil
		}
	}
	return "", errors.New("there is no boot loader on the EFI system partition")
}

// machine is what a PE image runs on (Microsoft PE Format, "Machine Types").
// Kernels are PE images too: firmware starts them.
func machine(pe []byte) image.Arch {
	if len(pe) < 0x40 || string(pe[:2]) != "MZ" {
		return ""
	}
	at := int64(binary.LittleEndian.Uint32(pe[0x3c:]))
	if at+6 > int64(len(pe)) || string(pe[at:at+4]) != "PE\x00\x00" {
		return ""
	}
	switch binary.LittleEndian.Uint16(pe[at+4:]) {
	case 0x8664:
		return image.AMD64
	case 0xaa64:
		return image.ARM64
	}
	return ""
}

func lookAt(img *disk.Image, name string, arch image.Arch) (e Entry, err error) {
	e.File = path.Base(name)
	text, err := img.ReadFile(name)
	if err != nil {
		return e, err
	}
	fields := fieldsOf(text)
	e.Title = fields["title"]
	kernel, kernelErr := sum(img, fields["linux"], &e.Kernel)
	initrd, initrdErr := sum(img, fields["initrd"], &e.Initrd)
	if err := errors.Join(kernelErr, initrdErr); err != nil {
		return e, err
	}
	if machine(kernel) != arch {
		return e, fmt.Errorf("%s is no kernel for %s", e.Kernel.Path, arch)
	}
	if slot := path.Base(path.Dir(e.Kernel.Path)); !strings.Contains(" "+fields["options"]+" ", " lastack.slot="+slot+" ") {
		return e, fmt.Errorf("its options don't say lastack.slot=%s", slot)
	}
	if err := e.lookInside(initrd); err != nil {
		return e, fmt.Errorf("%s: %w", e.Initrd.Path, err)
	}
	if e.Release.Arch != string(arch) {
		return e, fmt.Errorf("%s is for %s, the loader for %s", e.Initrd.Path, e.Release.Arch, arch)
	}
	return e, nil
}

// fieldsOf reads an entry (https://uapi-group.org/specifications/specs/boot_loader_specification/).
func fieldsOf(text []byte) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}

func sum(img *disk.Image, name string, s *Sum) ([]byte, error) {
	s.Path = name
	data, err := img.ReadFile(name)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(data)
	s.Size, s.SHA256 = int64(len(data)), hex.EncodeToString(h[:])
	return data, nil
}

// lookInside reads an initramfs: it must have a process 1, say what it is, and
// hold every module of its list.
func (e *Entry) lookInside(initrd []byte) error {
	z, err := zstd.NewReader(bytes.NewReader(initrd), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	there := map[string]bool{}
	var order string
	err = cpio.Read(z, func(f cpio.Entry) error {
		name := "/" + f.Name
		there[name] = true
		switch name {
		case bundle.ReleaseFile:
			return json.Unmarshal(f.Data, &e.Release)
		case path.Join(image.ModulesDir, kmod.OrderFile):
			order = string(f.Data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range []string{image.InitPath, bundle.ReleaseFile} {
		if !there[name] {
			return fmt.Errorf("it has no %s", name)
		}
	}
	for line := range strings.FieldsSeq(order) {
		if strings.HasPrefix(line, "/") {
			if e.Modules++; !there[line] {
				return fmt.Errorf("it has no %s, which its list of modules names", line)
			}
		}
	}
	return nil
}
