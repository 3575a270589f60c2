package inspect_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/imagetest"
	"github.com/lastack/lastack/image/inspect"
)

func look(t *testing.T, files []disk.File) (*inspect.Summary, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "box.img")
	if err := disk.Write(name, files); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return inspect.Look(f)
}

func files(t *testing.T, a image.Arch) []disk.File {
	t.Helper()
	files, err := imagetest.Files(a)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestGoodImageIsSummedUp(t *testing.T) {
	for _, a := range image.Arches() {
		s, err := look(t, append(files(t, a), disk.File{Path: image.ProvisionKeys, Data: []byte("ssh-ed25519 AAAA")}))
		if err != nil {
			t.Fatal(err)
		}
		if s.Arch != a || len(s.Entries) != 1 || !slices.Equal(s.Provision, []string{image.ProvisionKeys}) {
			t.Fatalf("got %+v, want one entry for %s and keys", s, a)
		}
		e := s.Entries[0]
		if e.File != "a.conf" || e.Release != imagetest.Release(a) || e.Modules != 1 || e.Kernel.Path != "/A/vmlinuz" || e.Kernel.Size != 2<<20 || len(e.Initrd.SHA256) != 64 {
			t.Errorf("got %+v", e)
		}
	}
}

func TestWhatWouldNotBootIsFound(t *testing.T) {
	initrd := func(a image.Arch, whole bool) []byte {
		data, err := imagetest.Initrd(imagetest.Release(a), whole)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, c := range map[string]struct {
		path string
		data []byte // nil: the file is missing
		want string
	}{
		"no loader":             {"/EFI/BOOT/BOOTX64.EFI", nil, "no boot loader"},
		"loader of another":     {"/EFI/BOOT/BOOTX64.EFI", imagetest.Program(image.ARM64, 1000), "is no program for amd64"},
		"no entry":              {"/loader/entries/a.conf", nil, "no boot entry"},
		"no kernel":             {"/A/vmlinuz", nil, "/A/vmlinuz on the EFI system partition: file does not exist"},
		"no initramfs":          {"/A/initrd", nil, "/A/initrd on the EFI system partition: file does not exist"},
		"kernel is garbage":     {"/A/vmlinuz", []byte("garbage"), "no kernel for amd64"},
		"kernel of another":     {"/A/vmlinuz", imagetest.Program(image.ARM64, 1000), "no kernel for amd64"},
		"initramfs of another":  {"/A/initrd", initrd(image.ARM64, true), "is for arm64, the loader for amd64"},
		"initramfs cut off":     {"/A/initrd", initrd(image.AMD64, true)[:100], "/A/initrd"},
		"module missing":        {"/A/initrd", initrd(image.AMD64, false), "has no /lib/modules/6.1.0-test/virtio.ko"},
		"entry of another slot": {"/loader/entries/a.conf", []byte("linux /A/vmlinuz\ninitrd /A/initrd\noptions lastack.slot=B\n"), "don't say lastack.slot=A"},
	} {
		t.Run(name, func(t *testing.T) {
			all := files(t, image.AMD64)
			i := slices.IndexFunc(all, func(f disk.File) bool { return f.Path == c.path })
			if all[i].Data = bytes.Clone(c.data); c.data == nil {
				all = slices.Delete(all, i, i+1)
			}
			if _, err := look(t, all); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
