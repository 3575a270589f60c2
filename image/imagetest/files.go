// Package imagetest has the files of an image that boots nothing but is right
// in every other way, for tests that need no kernel: it is made in milliseconds.
//
// It has no goroutines and no state.
package imagetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/klauspost/compress/zstd"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/cpio"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/slot"
)

// Release is what the image says it is.
func Release(a image.Arch) bundle.Release {
	return bundle.Release{Version: "v1", Build: 1, Arch: string(a), Kernel: "6.1.0-test"}
}

// Files is the EFI system partition of an image for a.
func Files(a image.Arch) ([]disk.File, error) {
	initrd, err := Initrd(Release(a), true)
	if err != nil {
		return nil, err
	}
	e := slot.Entry{Slot: slot.A, Release: Release(a), Title: "test", SortKey: "lastack", Sequence: 1, Options: a.CommandLine() + " lastack.slot=A"}
	return []disk.File{
		{Path: a.BootFile(), Data: Program(a, 1000)},
		{Path: image.LoaderConf, Data: []byte(image.LoaderText())},
		{Path: image.EntriesDir + "/" + e.Name(), Data: e.Text()},
		{Path: "/A/vmlinuz", Data: Program(a, 2<<20)},
		{Path: "/A/initrd", Data: initrd},
	}, nil
}

// Program is a PE header for a's processor, and noise.
func Program(a image.Arch, size int) []byte {
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(p) // never fails
	copy(p, "MZ")
	binary.LittleEndian.PutUint32(p[0x3c:], 0x80)
	copy(p[0x80:], "PE\x00\x00")
	machine := map[image.Arch]uint16{image.AMD64: 0x8664, image.ARM64: 0xaa64}[a]
	binary.LittleEndian.PutUint16(p[0x84:], machine)
	return p
}

// Initrd is an initramfs with one module, or without the one that its list names.
func Initrd(r bundle.Release, whole bool) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	release, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	module := "lib/modules/" + r.Kernel + "/virtio.ko"
	w := cpio.NewWriter(z)
	files := map[string][]byte{"init": []byte("binary"), bundle.ReleaseFile[1:]: release, "lib/modules/order": []byte("# base\n/" + module + "\n")}
	if whole {
		files[module] = []byte("module")
	}
	for name, data := range files {
		if err := w.File(name, 0o755, data); err != nil {
			return nil, fmt.Errorf("make a test image: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
