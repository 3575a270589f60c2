package disk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image/disk"
)

const mib = 1 << 20

func files() []disk.File {
	random := make([]byte, 3*mib+17)
	rand.NewChaCha8([32]byte{1}).Read(random) // never fails
	return []disk.File{
		{Path: "/EFI/BOOT/BOOTX64.EFI", Data: random[:140000]},
		{Path: "/loader/loader.conf", Data: []byte("timeout 0\n")},
		{Path: "/loader/entries/a.conf", Data: []byte("title A\n")},
		{Path: "/loader/entries/b+3.conf", Data: []byte("title B\n")},
		{Path: "/A/vmlinuz", Data: random},
		{Path: "/A/initrd", Data: random[:4096]},
		{Path: "/B/vmlinuz", Data: random[:4097]},
	}
}

func write(t *testing.T) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := disk.Write(name, files()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func same(t *testing.T, img *disk.Image, want []disk.File) {
	t.Helper()
	for _, f := range want {
		got, err := img.ReadFile(f.Path)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, f.Data) {
			t.Errorf("%s: got %d bytes that are not the %d written", f.Path, len(got), len(f.Data))
		}
	}
	if len(img.Files) != len(want) {
		t.Errorf("got %d files, want %d", len(img.Files), len(want))
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	f := write(t)
	img, err := disk.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	same(t, img, files())
	if len(img.Partitions) != 2 || img.Partitions[0].Name != "ESP" || img.Partitions[1].Name != "DATA" || img.Partitions[0].Start != mib {
		t.Errorf("got partitions %v, want ESP at 1 MiB and DATA", img.Partitions)
	}
}

func TestFilesAreAddedAndReplaced(t *testing.T) {
	f := write(t)
	added := []disk.File{{Path: "/lastack.yaml", Data: []byte("interfaces: {}\n")}, {Path: "/loader/loader.conf", Data: bytes.Repeat([]byte("# longer\n"), 2000)}, {Path: "/A/initrd", Data: []byte("shorter")}}
	for range 2 { // again: all are replaced
		if err := disk.Add(f, added); err != nil {
			t.Fatal(err)
		}
	}
	img, err := disk.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	want := append(files(), added[0])
	want[1], want[5] = added[1], added[2]
	same(t, img, want)
	fsck(t, f)
}

func TestStretchedToALargerDisk(t *testing.T) {
	f := write(t)
	const size = 700*mib + 512*7 // no round number
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := disk.Stretch(f, size); err != nil {
		t.Fatal(err)
	}
	img, err := disk.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	same(t, img, files())
	var last [8]byte
	if _, err := f.ReadAt(last[:], size-512); err != nil {
		t.Fatal(err)
	}
	if string(last[:]) != "EFI PART" {
		t.Errorf("the last sector begins with %q, want the second partition table", last)
	}
	sgdisk(t, f)
	if err := disk.Stretch(f, 400*mib); err == nil {
		t.Error("a disk that is too small was taken")
	}
}

// What others think of it: fsck.fat, mtools and sgdisk.
func TestOtherToolsFindNoFault(t *testing.T) {
	f := write(t)
	sgdisk(t, f)
	fsck(t, f)
	text := tool(t, "mtools", "mdir", "-i", f.Name()+"@@1M", "-/", "-b", "::")
	for _, one := range files() {
		if !strings.Contains(text, "::"+one.Path+"\n") {
			t.Errorf("mtools doesn't see %s in\n%s", one.Path, text)
		}
	}
}

// tool runs what a package has, or skips; where everything must run that is a failure.
func tool(t *testing.T, pkg, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not on everybody's path
		if err != nil {
			path, err = exec.LookPath(dir + program)
		}
	}
	if err != nil {
		if os.Getenv("APPLIANCE_TEST") == "require" {
			t.Fatalf("%v: apt-get install %s", err, pkg)
		}
		t.Skipf("%v: apt-get install %s", err, pkg)
	}
	text, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v:\n%s", program, err, text)
	}
	return string(text)
}

func sgdisk(t *testing.T, f *os.File) {
	t.Helper()
	if text := tool(t, "gdisk", "sgdisk", "-v", f.Name()); !strings.Contains(text, "No problems found") {
		t.Errorf("sgdisk says\n%s", text)
	}
}

func fsck(t *testing.T, f *os.File) {
	t.Helper()
	img, err := disk.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	data := make([]byte, img.Partitions[0].Size)
	if _, err := f.ReadAt(data, img.Partitions[0].Start); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(esp, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "dosfstools", "fsck.fat", "-n", "-v", esp)
}

func TestTwoImagesAreTheSame(t *testing.T) {
	a, b := write(t), write(t)
	x, y := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; at += mib {
		n, err := a.ReadAt(x, at)
		if m, _ := b.ReadAt(y, at); m != n || !bytes.Equal(x[:n], y[:n]) {
			t.Fatalf("they differ between %d and %d", at, at+mib)
		}
		if err != nil {
			return
		}
	}
}

// Sizes at which go-diskfs makes a table that is too small for the last
// clusters must not be among those we use; the check would find it.
func TestImagesOfEverySize(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 2 GB of holes")
	}
	for _, n := range []int{1, 89, 91, 160, 170} { // MiB: around where the partition becomes larger
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "disk.img")
			want := []disk.File{{Path: "/A/vmlinuz", Data: make([]byte, n*mib)}}
			if err := disk.Write(name, want); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			img, err := disk.Check(f)
			if err != nil {
				t.Fatal(err)
			}
			if img.Free < 2*int64(n)*mib {
				t.Errorf("%d MiB are free beside a slot of %d", img.Free/mib, n)
			}
			fsck(t, f)
		})
	}
	if err := disk.Write(filepath.Join(t.TempDir(), "x"), []disk.File{{Path: "/A/vmlinuz", Data: make([]byte, 400*mib)}}); err == nil {
		t.Error("a slot that fits only twice was taken")
	}
}

// fault damages an image; its text is part of what Check must say.
type fault struct {
	says   string
	damage func(t *testing.T, f *os.File)
}

func TestCheckFindsEveryFault(t *testing.T) {
	const esp = 1 * mib
	faults := map[string]fault{
		"protective MBR":           {"no protective MBR", flip(450)},
		"first header":             {"first partition table: the header's CRC", flip(512 + 40)},
		"first header's signature": {"no GPT header", flip(512)},
		"first entries":            {"first partition table: the entries' CRC", flip(1024 + 56)},
		"second header":            {"second partition table: the header's CRC", flip(-512 + 40)},
		"second entries":           {"second partition table: the entries' CRC", flip(-512 - 16384 + 56)},
		"boot sector":              {"not one of FAT32", flip(esp + 510)},
		"cluster size":             {"not one of FAT32", set(esp+13, 3)},
		"boot sector's copy":       {"differs from its copy", flip(esp + 6*512 + 3)},
		"first table only":         {"the two tables differ", flip(esp + 32*512 + 4*900)},
		"lost cluster":             {"clusters belong to no file", inBothTables(func(last int) (int, uint32) { return last + 5, 0x0fffffff })},
		"chain into nothing":       {"is none of 2 to", inBothTables(func(last int) (int, uint32) { return last, 0x0ffffff0 })},
		"chain that is cut":        {"bytes in", inBothTables(func(last int) (int, uint32) { return last - 1, 0x0fffffff })},
		"shared cluster":           {"share cluster", inBothTables(func(last int) (int, uint32) { return last, 20 })},
		"circle":                   {"circle", inBothTables(func(last int) (int, uint32) { return last, uint32(last) })},
		"free count":               {"FSInfo says", set(esp+512+488, 1)},
		"dot dot":                  {"must be 0", patchEntry("..         ", 26, 2)},
		"dot":                      {"its directory is", patchEntry(".          ", 26, 99)},
	}
	for name, c := range faults {
		t.Run(name, func(t *testing.T) {
			f := write(t)
			c.damage(t, f)
			_, err := disk.Check(f)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error with %q", err, c.says)
			}
		})
	}
}

func at(t *testing.T, f *os.File, off int64, change func([]byte), n int) {
	t.Helper()
	if off < 0 {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		off += info.Size()
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func flip(off int64) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) { at(t, f, off, func(b []byte) { b[0] ^= 0x40 }, 1) }
}

func set(off int64, to byte) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) { at(t, f, off, func(b []byte) { b[0] = to }, 1) }
}

// inBothTables changes an entry near the last used cluster.
func inBothTables(change func(last int) (cluster int, to uint32)) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		const esp = 1 * mib
		var size uint32
		at(t, f, esp+36, func(b []byte) { size = binary.LittleEndian.Uint32(b) * 512 }, 4)
		table := make([]byte, size)
		if _, err := f.ReadAt(table, esp+32*512); err != nil {
			t.Fatal(err)
		}
		last := 0
		for c := range len(table) / 4 {
			if binary.LittleEndian.Uint32(table[4*c:]) != 0 {
				last = c
			}
		}
		// The last file is of two clusters; /A/vmlinuz, of hundreds, begins before 20 and goes through it.
		cluster, to := change(last)
		for _, start := range []int64{esp + 32*512, esp + 32*512 + int64(size)} {
			at(t, f, start+4*int64(cluster), func(b []byte) { binary.LittleEndian.PutUint32(b, to) }, 4)
		}
	}
}

// patchEntry changes the first directory entry of a short name.
func patchEntry(short string, off int, to byte) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		const esp, span = 1 * mib, 8 * mib
		data := make([]byte, span)
		if _, err := f.ReadAt(data, esp); err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(data, []byte(short))
		if i < 0 {
			t.Fatalf("no entry %q", short)
		}
		at(t, f, int64(esp+i+off), func(b []byte) { b[0] = to }, 1)
	}
}
