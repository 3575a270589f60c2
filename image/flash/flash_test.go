package flash_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/flash"
	"github.com/lastack/lastack/image/imagetest"
)

// host is a /sys, /proc and /dev of its own.
type host struct {
	t    *testing.T
	root string
	flash.Host
}

func newHost(t *testing.T, mounts, swaps string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, root: dir, Host: flash.Host{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev")}}
	h.put("proc/self/mountinfo", strings.ReplaceAll(mounts, "/dev/", h.Dev+"/"))
	h.put("proc/swaps", "Filename Type Size Used Priority\n"+strings.ReplaceAll(swaps, "/dev/", h.Dev+"/"))
	return h
}

func (h *host) put(name, text string) {
	h.t.Helper()
	name = filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) disk(name, number string, files map[string]string) {
	h.t.Helper()
	h.put("sys/block/"+name+"/size", "8388608\n")
	h.put("sys/block/"+name+"/dev", number+"\n")
	h.put("dev/"+name, "")
	for file, text := range files {
		h.put("sys/block/"+name+"/"+file, text+"\n")
	}
}

func (h *host) refused(name string) string {
	h.t.Helper()
	d, err := h.Find(filepath.Join(h.Dev, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.ReplaceAll(d.Refused, h.Dev, "/dev")
}

func TestDisksInUseAreRefused(t *testing.T) {
	h := newHost(t, "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n23 22 0:40 /@home /home rw shared:1 - btrfs /dev/sdb1 rw\n24 22 8:64 / /mnt rw - ext4 /dev/sde rw\n25 22 253:0 / /srv rw - xfs /dev/mapper/vg-srv rw\n",
		"/dev/sdc1 partition 100 0 -2\n")
	parts := func(name, number string) map[string]string {
		return map[string]string{name + "/partition": "1", name + "/dev": number}
	}
	h.disk("sda", "8:0", map[string]string{"sda1/partition": "1", "sda1/dev": "8:1", "sda2/partition": "2", "sda2/dev": "8:2"})
	h.disk("sdb", "8:16", parts("sdb1", "8:17"))
	h.disk("sdc", "8:32", parts("sdc1", "8:33"))
	h.disk("sdd", "8:48", map[string]string{"ro": "1"})
	h.disk("sde", "8:64", nil)
	h.disk("sdf", "8:80", map[string]string{"sdf1/partition": "1", "sdf1/dev": "8:81", "sdf1/holders/dm-0/x": ""})
	h.disk("sdg", "8:96", map[string]string{"removable": "1", "device/vendor": "Maker ", "device/model": "Stick", "sdg1/partition": "1", "sdg1/dev": "8:97"})
	h.disk("mmcblk0", "179:0", map[string]string{"device/name": "SC16G", "mmcblk0p1/partition": "1", "mmcblk0p1/dev": "179:1"})
	for name, want := range map[string]string{
		"sda": "this system runs from it", "sdb": "/dev/sdb1 is mounted on /home", "sdc": "/dev/sdc1 is used for swapping", "sdd": "it is write-protected",
		"sde": "/dev/sde is mounted on /mnt", "sdf": "dm-0 is built on sdf1", "sdg": "", "mmcblk0": "",
	} {
		if got := h.refused(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestOnlyWholeDisksWithAMediumAreFound(t *testing.T) {
	h := newHost(t, "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n", "")
	h.disk("sdg", "8:96", map[string]string{"removable": "1", "device/vendor": "Maker ", "device/model": "Stick", "sdg1/partition": "1", "sdg1/dev": "8:97"})
	h.disk("sdh", "8:112", map[string]string{"size": "0"}) // a reader without a card
	for _, name := range []string{"loop0", "zram0", "sr0", "dm-0", "md127", "ram0"} {
		h.disk(name, "7:0", nil)
	}
	all, err := h.Disks()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Name != "sdg" || all[0].Size != 4<<30 || all[0].Model != "Maker Stick" || !all[0].Removable {
		t.Errorf("got %+v, want sdg alone, 4 GiB, removable", all)
	}
	h.disk("vda", "254:0", map[string]string{"device/vendor": "0x1af4"})
	if d, err := h.Find(filepath.Join(h.Dev, "vda")); err != nil || d.Model != "" {
		t.Errorf("virtio: got model %q, %v", d.Model, err)
	}
	h.put("dev/sdg1", "")
	if _, err := h.Find(filepath.Join(h.Dev, "sdg1")); err == nil || !strings.Contains(err.Error(), "is a partition") {
		t.Errorf("got %v, want that it is a partition", err)
	}
	h.put("dev/null", "")
	if _, err := h.Find(filepath.Join(h.Dev, "null")); err == nil || !strings.Contains(err.Error(), "no disk of this machine") {
		t.Errorf("got %v, want that it is no disk", err)
	}
	link := filepath.Join(h.Dev, "by-id")
	if err := os.Symlink(filepath.Join(h.Dev, "sdg"), link); err != nil {
		t.Fatal(err)
	}
	if d, err := h.Find(link); err != nil || d.Name != "sdg" {
		t.Errorf("by a link: got %v, %v", d, err)
	}
}

// job writes an image that was made with content that compresses badly.
func job(t *testing.T, compress bool) (flash.Job, []byte) {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "box.img")
	if err := disk.Write(name, contents(t)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if compress {
		name += ".zst"
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return flash.Job{Image: name, To: filepath.Join(dir, "target")}, data
}

func TestFileHoldsTheImageAfterwards(t *testing.T) {
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		t.Run(name, func(t *testing.T) {
			j, want := job(t, compress)
			// What was there before must not shine through.
			if err := os.WriteFile(j.To, bytes.Repeat([]byte{0xff}, len(want)+1000), 0o600); err != nil {
				t.Fatal(err)
			}
			seen := map[string]int64{}
			j.Progress = func(stage string, done, total int64) {
				if done <= seen[stage] || done > total || total != int64(len(want)) {
					t.Errorf("%s: progress from %d to %d of %d", stage, seen[stage], done, total)
				}
				seen[stage] = done
			}
			if err := j.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(j.To)
			if err != nil {
				t.Fatal(err)
			}
			if sha256.Sum256(got) != sha256.Sum256(want) {
				t.Error("the file differs from the image")
			}
			if seen["write"] != int64(len(want)) || seen["verify"] != int64(len(want)) {
				t.Errorf("got progress %v, want both stages whole", seen)
			}
		})
	}
}

func TestMediumThatForgetsIsFound(t *testing.T) {
	j, _ := job(t, false)
	spoilt := false
	j.Progress = func(stage string, done, total int64) {
		if done < total || spoilt {
			return
		}
		spoilt = true // all is written, nothing is read back
		f, err := os.OpenFile(j.To, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{1}, total/2); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Run(t.Context()); !errors.Is(err, flash.ErrDiffers) {
		t.Errorf("got %v, want %v", err, flash.ErrDiffers)
	}
}

func TestInterruptedWriteSaysWhatIsLeft(t *testing.T) {
	j, _ := job(t, false)
	ctx, stop := context.WithCancel(t.Context())
	j.Progress = func(string, int64, int64) { stop() }
	if err := j.Run(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "neither what it was") {
		t.Errorf("got %v, want canceled and a word about the disk", err)
	}
}

func TestCutOffImageIsFoundBeforeAnythingIsWritten(t *testing.T) {
	j, _ := job(t, true)
	info, err := os.Stat(j.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(j.Image, info.Size()-10); err != nil {
		t.Fatal(err)
	}
	if err := j.Run(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if _, err := os.Stat(j.To); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target was touched: %v", err)
	}
}

func TestSparseCopyIsTheSameWithHoles(t *testing.T) {
	want := make([]byte, 5<<20+17)
	copy(want[3<<20:], "not zero")
	to, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := flash.CopySparse(to, bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that are not the %d copied", len(got), len(want))
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(to.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 2<<20 {
		t.Errorf("the copy takes %d bytes of the disk, want holes", used)
	}
}

// The end of a source that is cut off is not the end of the image.
func TestSparseCopyOfACutOffSourceFails(t *testing.T) {
	to, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from := io.MultiReader(strings.NewReader("begin"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := flash.CopySparse(to, from); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestNoFileIsMadeInDev(t *testing.T) {
	j, _ := job(t, false)
	j.To = "/dev/sdzz"
	if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no /dev/sdzz") {
		t.Errorf("got %v", err)
	}
}

func contents(t *testing.T) []disk.File {
	t.Helper()
	files, err := imagetest.Files(image.AMD64)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
