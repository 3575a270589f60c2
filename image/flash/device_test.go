package flash_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/flash"
	"github.com/lastack/lastack/image/inspect"
)

// device makes a block device of the kernel's, in memory: zram, which needs
// root and its module, but no loop device.
func device(t *testing.T, size string) string {
	t.Helper()
	const control = "/sys/class/zram-control"
	number, err := os.ReadFile(control + "/hot_add")
	if err != nil {
		t.Skipf("a block device to write to can't be made here (as root: modprobe zram): %v", err)
	}
	n := strings.TrimSpace(string(number))
	t.Cleanup(func() {
		if err := os.WriteFile(control+"/hot_remove", []byte(n), 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile("/sys/block/zram"+n+"/disksize", []byte(size), 0); err != nil {
		t.Skipf("zram: %v", err)
	}
	return "/dev/zram" + n
}

func TestBlockDeviceHoldsTheImageAfterwards(t *testing.T) {
	j, _ := job(t, true)
	j.To = device(t, "700M")
	j.Add = []disk.File{{Path: "/lastack.yaml", Data: []byte("interfaces: {}\n")}}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(j.To)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := inspect.Look(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Provision) != 1 || len(s.Entries) != 1 {
		t.Errorf("got %+v, want one entry and the configuration", s)
	}
	var last [8]byte
	if _, err := f.ReadAt(last[:], 700<<20-512); err != nil || string(last[:]) != "EFI PART" {
		t.Errorf("the last sector of the device begins with %q (%v), want the second partition table", last, err)
	}
}

func TestDeviceThatIsTooSmallIsRefused(t *testing.T) {
	j, _ := job(t, false)
	j.To = device(t, "100M")
	if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "only 104 MB") {
		t.Errorf("got %v, want that it is too small", err)
	}
}

// The last word is the kernel's, whatever /sys has said.
func TestDeviceThatIsClaimedIsRefused(t *testing.T) {
	j, _ := job(t, false)
	j.To = device(t, "700M")
	claim, err := os.OpenFile(j.To, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), unix.EBUSY.Error()) {
		t.Errorf("got %v, want %v", err, unix.EBUSY)
	}
	if h := flash.ThisHost(); filepath.Dir(j.To) == h.Dev {
		if _, err := h.Find(j.To); err == nil {
			t.Error("a device in memory is offered as a disk")
		}
	}
}
