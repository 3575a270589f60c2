package cpio_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image/cpio"
)

func archive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, err := range []error{
		w.Dir("etc", 0o755), w.File("etc/a", 0o644, []byte("hello")), w.File("init", 0o755, bytes.Repeat([]byte("x"), 1001)), w.File("empty", 0o600, nil),
		w.Device("null", 0o666, 1, 3), w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	got := map[string]cpio.Entry{}
	if err := cpio.Read(bytes.NewReader(archive(t)), func(e cpio.Entry) error { got[e.Name] = e; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode uint32
		size int
	}{"etc": {0o040755, 0}, "etc/a": {0o100644, 5}, "init": {0o100755, 1001}, "empty": {0o100600, 0}, "null": {0o020666, 0}} {
		if e := got[name]; e.Mode != want.mode || len(e.Data) != want.size {
			t.Errorf("%s: got mode %o and %d bytes, want %o and %d", name, e.Mode, len(e.Data), want.mode, want.size)
		}
	}
	if len(got) != 5 {
		t.Errorf("got %d entries, want 5", len(got))
	}
}

func TestCpioTakesTheArchive(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is missing (apt-get install cpio); the kernel reads such an archive in every boot test")
	}
	dir := t.TempDir()
	cmd := exec.Command(cpio, "-idm", "--quiet", "--nonmatching", "null") // a device needs root
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, text)
	}
	info, err := os.Stat(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != 1001 || info.Mode().Perm() != 0o755 {
		t.Errorf("got %d bytes with mode %v, want 1001 with 0755", info.Size(), info.Mode())
	}
}

func TestNamesAreRelative(t *testing.T) {
	w := cpio.NewWriter(&bytes.Buffer{})
	for _, name := range []string{"", "/init"} {
		if err := w.File(name, 0o644, nil); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

func TestDamagedArchivesAreRefused(t *testing.T) {
	whole := archive(t)
	for name, data := range map[string][]byte{
		"cut off":         whole[:len(whole)-60],
		"no magic":        append([]byte("07070X"), whole[6:]...),
		"not a number":    []byte(strings.Replace(string(whole), "070701", "070701ZZ", 1)),
		"huge":            append(append([]byte{}, whole[:54]...), append([]byte("FFFFFFFF"), whole[62:]...)...),
		"empty":           nil,
		"without trailer": whole[:len(whole)-124],
	} {
		if err := cpio.Read(bytes.NewReader(data), func(cpio.Entry) error { return nil }); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

func TestAFullDiskIsReported(t *testing.T) {
	w := cpio.NewWriter(full{})
	if err := w.File("a", 0o644, []byte("b")); !errors.Is(err, errFull) {
		t.Errorf("got %v, want %v", err, errFull)
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("closing: got %v, want %v", err, errFull)
	}
}

var errFull = errors.New("no space")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
