package build

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/deb"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/kmod"
	"github.com/lastack/lastack/image/lock"
	"github.com/lastack/lastack/image/slot"
)

// Options say what to build.
type Options struct {
	Arch      image.Arch
	Version   string
	Build     uint64 // rises with each release
	Binary    string // path of the appliance's binary for Arch
	Config    []byte // default.yaml
	Keys      []Key
	BothSlots bool // slot B filled like slot A
	Lock      *lock.File
	Store     *deb.Store
	Log       io.Writer // what is done, for a person

	Out          string    // path of the image; what lies beside it is named after it
	Uncompressed bool      // no Out.zst
	SlotDir      string    // "" or where to leave the slot's two files
	Created      time.Time // what the SBOM says, part of its bytes
}

// Slot is a kernel and an initramfs: what boots, and what an update carries.
type Slot struct {
	Release bundle.Release
	Kernel  []byte
	Initrd  []byte
}

// parts is all that an image is made of.
type parts struct {
	slot    *Slot
	system  *System
	loader  []byte
	lock    []lock.Package
	goBuild *buildinfo.BuildInfo
}

// Build makes the image file and checks its structure, and returns the size of
// each part.
func Build(ctx context.Context, o Options) (*Report, error) {
	p, err := collect(ctx, o)
	if err != nil {
		return nil, err
	}
	files := espFiles(p, o.Arch, o.BothSlots)
	if err := os.Remove(o.Out); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := disk.Write(o.Out, files); err != nil {
		return nil, fmt.Errorf("write %s: %w", o.Out, err)
	}
	if err := checkFile(o.Out); err != nil {
		return nil, fmt.Errorf("internal error: the image that was just built is wrong: %w", err)
	}
	r := p.report(files)
	return r, p.outputs(o, files, r)
}

func checkFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	_, err = disk.Check(f)
	return err
}

// collect gets the packages and makes the slot of them.
func collect(ctx context.Context, o Options) (*parts, error) {
	p := &parts{}
	binary, info, err := readBinary(o.Binary, o.Arch)
	if err != nil {
		return nil, err
	}
	p.goBuild = info
	tmp, err := os.MkdirTemp("", "lastack-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp) // a rest in the temporary directory harms nobody
	dirs := map[lock.Role]string{}
	for _, role := range lock.Roles() {
		if dirs[role], err = p.unpack(ctx, o, role, tmp); err != nil {
			return nil, err
		}
	}
	if p.loader, err = os.ReadFile(filepath.Join(dirs[lock.Loader], loaderFile(o.Arch))); err != nil {
		return nil, err
	}
	kernel := p.lock[0].KernelVersion()
	r := bundle.Release{Version: o.Version, Build: o.Build, Arch: string(o.Arch), Kernel: kernel}
	p.system = &System{Release: r, Binary: binary, Config: o.Config, Keys: o.Keys}
	if p.system.Fsck, err = os.ReadFile(filepath.Join(dirs[lock.Fsck], "sbin/e2fsck.static")); err != nil {
		return nil, err
	}
	if p.system.Modules, err = kmod.Resolve(os.DirFS(filepath.Join(dirs[lock.Kernel], "lib/modules", kernel)), kernel, kmod.Sets(o.Arch)); err != nil {
		return nil, err
	}
	p.slot = &Slot{Release: r}
	if p.slot.Kernel, err = os.ReadFile(filepath.Join(dirs[lock.Kernel], "boot/vmlinuz-"+kernel)); err != nil {
		return nil, err
	}
	fmt.Fprintln(o.Log, "compressing the initramfs")
	p.slot.Initrd, err = p.system.initramfs()
	return p, err
}

func (p *parts) unpack(ctx context.Context, o Options, role lock.Role, tmp string) (string, error) {
	pkg, err := o.Lock.Find(role, o.Arch)
	if err != nil {
		return "", err
	}
	p.lock = append(p.lock, pkg)
	file, err := o.Store.Get(ctx, o.Lock.Suite, pkg)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(o.Log, "unpacking %s\n", pkg.FileName())
	return deb.Unpack(ctx, file, tmp)
}

func loaderFile(a image.Arch) string {
	name := map[image.Arch]string{image.AMD64: "x64", image.ARM64: "aa64"}[a]
	return "usr/lib/systemd/boot/efi/systemd-boot" + name + ".efi"
}

// readBinary takes a binary only if it will run as process 1: of this
// architecture, and in need of no library.
func readBinary(name string, a image.Arch) ([]byte, *buildinfo.BuildInfo, error) {
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("read the appliance's binary: %w", err)
	}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" && s.Value != string(a) {
			return nil, nil, fmt.Errorf("%s is for %s, the image for %s: give the right one by --binary (make build makes both)", name, s.Value, a)
		}
		if s.Key == "CGO_ENABLED" && s.Value != "0" {
			return nil, nil, fmt.Errorf("%s needs shared libraries, which the image doesn't have: build it with CGO_ENABLED=0", name)
		}
	}
	if !strings.HasSuffix(info.Path, "/cmd/appliance") {
		return nil, nil, fmt.Errorf("%s is %s, not the appliance", name, info.Path)
	}
	data, err := os.ReadFile(name)
	return data, info, err
}

// espFiles is the EFI system partition of a new disk. Slot A carries no
// counter: there is nothing to go back to.
func espFiles(p *parts, arch image.Arch, both bool) []disk.File {
	files := []disk.File{
		{Path: arch.BootFile(), Data: p.loader},
		{Path: image.LoaderConf, Data: []byte(image.LoaderText())},
	}
	slots := []slot.Slot{slot.A}
	if both {
		slots = append(slots, slot.B)
	}
	for _, s := range slots {
		e := bootEntry(p.slot.Release, arch, s)
		files = append(files,
			disk.File{Path: path.Join(image.EntriesDir, e.Name()), Data: e.Text()},
			disk.File{Path: path.Join("/", string(s), bundle.Kernel), Data: p.slot.Kernel},
			disk.File{Path: path.Join("/", string(s), bundle.Initrd), Data: p.slot.Initrd})
	}
	return append(files, disk.File{Path: image.ResetEntry, Data: resetEntry(p.slot.Release, arch).Text()})
}

func bootEntry(r bundle.Release, arch image.Arch, s slot.Slot) slot.Entry {
	return slot.Entry{Slot: s, Release: r, Title: "Lastack " + r.String(), SortKey: "lastack", Sequence: 1, Options: arch.CommandLine() + " lastack.slot=" + string(s)}
}

// resetEntry is in the boot menu only: the loader never takes it by itself.
func resetEntry(r bundle.Release, arch image.Arch) slot.Entry {
	e := bootEntry(r, arch, slot.A)
	e.Title, e.SortKey = "Factory reset: forget all settings", "reset"
	e.Options += " " + image.ResetArg + "=1"
	return e
}
