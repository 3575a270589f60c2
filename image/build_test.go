package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/build"
	"github.com/lastack/lastack/image/inspect"
)

func sumOf(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// The first was built for the other tests; the second has a binary that is
// linked again, and its packages are unpacked again.
func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	first := factory(t, image.AMD64)
	second := filepath.Join(t.TempDir(), filepath.Base(first))
	if _, err := build.Build(t.Context(), options(t, image.AMD64, second)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", build.SBOMSuffix, build.SumsSuffix} {
		if a, b := sumOf(t, first+suffix), sumOf(t, second+suffix); a != b {
			t.Errorf("%s: the first build gave %s, the second %s", filepath.Base(first)+suffix, a, b)
		}
	}
	sums, err := os.ReadFile(first + build.SumsSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if want := sumOf(t, first) + "  " + filepath.Base(first) + "\n"; !strings.Contains(string(sums), want) {
		t.Errorf("got sums\n%swant %s", sums, want)
	}
}

// maxCompressed is what an image may weigh, with both slots full.
const maxCompressed = 48_000_000

func TestImageIsSmallWithBothSlotsFull(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		o := options(t, arch, filepath.Join(t.TempDir(), "box.img"))
		o.BothSlots, o.Uncompressed = true, false
		report, err := build.Build(t.Context(), o)
		unless(t, err)
		var b bytes.Buffer
		if err := report.Print(&b); err != nil {
			t.Fatal(err)
		}
		t.Logf("\n%s", b.String())
		info, err := os.Stat(o.Out + build.CompressedSuffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxCompressed {
			t.Errorf("got %d bytes, want %d at most", info.Size(), maxCompressed)
		}
		f, err := os.Open(o.Out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := inspect.Look(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Entries) != 3 {
			t.Errorf("got %d boot entries, want two slots and the reset", len(s.Entries))
		}
		slot := s.Entries[0].Kernel.Size + s.Entries[0].Initrd.Size
		if s.Free < slot {
			t.Errorf("%d bytes are free for an update of %d", s.Free, slot)
		}
	})
}

func TestSBOMNamesEverything(t *testing.T) {
	data, err := os.ReadFile(factory(t, image.AMD64) + build.SBOMSuffix)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Version  string `json:"spdxVersion"`
		Packages []struct {
			ID        string `json:"SPDXID"`
			Name      string
			Checksums []struct{ ChecksumValue string }
		}
		Files []struct {
			ID   string `json:"SPDXID"`
			Name string `json:"fileName"`
		}
		Relationships []struct{ SpdxElementID, RelationshipType, RelatedSpdxElement string }
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	names, ids := map[string]bool{}, map[string]bool{"SPDXRef-DOCUMENT": true}
	for _, p := range d.Packages {
		names[p.Name] = true
		if ids[p.ID] {
			t.Errorf("identifier %s is there twice", p.ID)
		}
		ids[p.ID] = true
	}
	for _, f := range d.Files {
		names[f.Name] = true
		if ids[f.ID] {
			t.Errorf("identifier %s is there twice", f.ID)
		}
		ids[f.ID] = true
	}
	for _, want := range []string{"lastack", "systemd-boot-efi", "e2fsck-static", "gvisor.dev/gvisor", "go", "github.com/klauspost/compress", "./A/vmlinuz", "./init", "./sbin/e2fsck"} {
		if !names[want] {
			t.Errorf("%s is not in it", want)
		}
	}
	for _, r := range d.Relationships {
		if !ids[r.SpdxElementID] || !ids[r.RelatedSpdxElement] {
			t.Errorf("a relationship of what is not there: %+v", r)
		}
	}
	if d.Version != "SPDX-2.3" || len(d.Relationships) < len(names) {
		t.Errorf("got version %s and %d relationships of %d things", d.Version, len(d.Relationships), len(names))
	}
}

func TestWrongBinariesAreRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles")
	}
	o := options(t, image.AMD64, filepath.Join(t.TempDir(), "box.img"))
	for name, c := range map[string]struct {
		change func(*build.Options)
		want   string
	}{
		"another architecture": {func(o *build.Options) { o.Arch = image.ARM64 }, "is for amd64, the image for arm64"},
		"no Go program":        {func(o *build.Options) { o.Binary = "/bin/true" }, "read the appliance's binary"},
		"another program":      {func(o *build.Options) { o.Binary = goTool(t) }, "not the appliance"},
		"a key without suffix": {func(o *build.Options) { o.Keys = []build.Key{{Name: "key"}} }, "must end in .pub"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			c.change(&o)
			if _, err := build.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if _, err := os.Stat(o.Out); err == nil {
				t.Error("an image is there")
			}
		})
	}
}

// goTool is a Go program that is not ours: static, for this machine.
func goTool(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
