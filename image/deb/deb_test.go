package deb_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/deb"
	"github.com/lastack/lastack/image/lock"
)

func pkg(content string) lock.Package {
	sum := sha256.Sum256([]byte(content))
	return lock.Package{Role: lock.Kernel, Name: "linux-image-test", Version: "1:2.3~4", Arch: image.ARM64, SHA256: hex.EncodeToString(sum[:]), Source: "linux-signed"}
}

// nowhere is an address at which nothing answers.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestPackageInTheCacheIsTakenWithoutNetwork(t *testing.T) {
	s := &deb.Store{Dir: t.TempDir(), Mirror: nowhere(t), Log: t.Output()}
	p := pkg("content")
	name := filepath.Join(s.Dir, "linux-image-test_1%3a2.3~4_arm64.deb")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), "bookworm", p)
	if err != nil || got != name {
		t.Errorf("got %q, %v, want %q", got, err, name)
	}
}

func TestUnreachableMirrorSaysWhatToDo(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip(err)
	}
	s := &deb.Store{Dir: t.TempDir(), Mirror: nowhere(t), Log: t.Output()}
	p := pkg("content")
	// A damaged file in the cache is no way around the network.
	if err := os.WriteFile(filepath.Join(s.Dir, p.FileName()), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), "bookworm", p)
	if err == nil {
		t.Fatal("it was got from nowhere")
	}
	for _, want := range []string{"get package linux-image-test 1:2.3~4", "appliance image lock --update", "https://snapshot.debian.org/package/linux-signed/", p.SHA256, s.Dir} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// The real thing, small: of another architecture, by a wrong sum and by the right one.
func TestPackageComesFromDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("fetches Debian's lists")
	}
	f, err := lock.Default()
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Find(lock.Loader, image.ARM64)
	if err != nil {
		t.Fatal(err)
	}
	s := &deb.Store{Dir: t.TempDir(), Log: t.Output()}
	wrong := p
	wrong.SHA256 = strings.Repeat("0", 64)
	_, err = s.Get(t.Context(), f.Suite, wrong)
	if err == nil || !strings.Contains(err.Error(), "the lock file says 0000") {
		t.Errorf("got %v, want that the sum is another", err)
	}
	file, err := s.Get(t.Context(), f.Suite, p)
	if err != nil {
		if os.Getenv("APPLIANCE_TEST") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, err := deb.Unpack(t.Context(), file, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/lib/systemd/boot/efi/systemd-bootaa64.efi")); err != nil {
		t.Error(err)
	}
}
