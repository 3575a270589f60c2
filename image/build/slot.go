package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/cpio"
	"github.com/lastack/lastack/image/kmod"
)

// System is what goes into an initramfs.
type System struct {
	Release bundle.Release
	Binary  []byte // the appliance, static, for the architecture
	Modules []kmod.Chosen
	Fsck    []byte // e2fsck, static
	Config  []byte // the configuration without a configuration
	Keys    []Key
}

// Key is a public key that updates may be signed with.
type Key struct {
	Name string // of the file, as release.pub
	Data []byte
}

// initramfs is the archive of a system, compressed.
func (s *System) initramfs() ([]byte, error) {
	var out bytes.Buffer
	z, err := compressor(&out, 8<<20)
	if err != nil {
		return nil, err
	}
	if err := s.write(cpio.NewWriter(z)); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// compressor writes zstd, whose bytes depend on the input only because one
// goroutine makes them. Who unpacks it needs memory for the window, in bytes;
// the kernel and zstd(1) go up to 128 MiB.
func compressor(w io.Writer, window int) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
}

type entry struct {
	name string
	perm uint32
	data []byte
}

func (s *System) write(w *cpio.Writer) error {
	entries, err := s.entries()
	if err != nil {
		return err
	}
	made := map[string]bool{".": true}
	for _, e := range entries {
		if err := makeDirs(w, made, path.Dir(e.name)); err != nil {
			return err
		}
		if err := w.File(e.name, e.perm, e.data); err != nil {
			return err
		}
	}
	for _, d := range []string{"data", "dev", "esp", "proc", "run", "sys", "tmp"} {
		if err := w.Dir(d, 0o755); err != nil {
			return err
		}
	}
	// What process 1 writes before it has mounted /dev goes here (mem(4), 5:1).
	if err := w.Device("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	return w.Close()
}

func makeDirs(w *cpio.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := makeDirs(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return w.Dir(dir, 0o755)
}

// entries are the files, in the order of their names.
func (s *System) entries() ([]entry, error) {
	version, err := json.Marshal(s.Release)
	if err != nil {
		return nil, err
	}
	kernel := s.Release.Kernel
	all := []entry{
		{image.InitPath, 0o755, s.Binary},
		{bundle.ReleaseFile, 0o644, append(version, '\n')},
		{image.FsckPath, 0o755, s.Fsck},
		{image.ConfigPath, 0o644, s.Config},
		{path.Join(image.ModulesDir, kmod.OrderFile), 0o644, []byte(kmod.Order(kernel, s.Modules))},
		{path.Join(image.ModulesDir, kmod.DependsFile), 0o644, []byte(kmod.Depends(kernel, s.Modules))},
		{path.Join(image.ModulesDir, kmod.AliasesFile), 0o644, []byte(kmod.Aliases(kernel, s.Modules))},
	}
	for _, k := range s.Keys {
		if path.Base(k.Name) != k.Name || !strings.HasSuffix(k.Name, ".pub") {
			return nil, fmt.Errorf("update key %q: the file's name must end in .pub", k.Name)
		}
		all = append(all, entry{path.Join(bundle.KeyDir, k.Name), 0o644, k.Data})
	}
	for _, set := range s.Modules {
		for _, m := range set.Modules {
			all = append(all, entry{kmod.Path(kernel, m), 0o644, m.Data})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := range all {
		all[i].name = strings.TrimPrefix(all[i].name, "/")
	}
	return all, nil
}
