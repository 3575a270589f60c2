package kmod_test

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/kmod"
)

const version = "6.1.0-1-test"

// object is an ELF file with nothing but a .modinfo section (elf(5)).
func object(fields ...string) []byte {
	info := strings.Join(fields, "\x00") + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // into memory
		}
	}
	sections := uint64(64 + len(info) + len(names))
	put(uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), sections, uint32(0), uint16(64), uint16(0), uint16(0), uint16(64), uint16(3), uint16(2))
	b.WriteString(info + names)
	section := func(name, kind uint32, off, size int) {
		put(name, kind, uint64(0), uint64(0), uint64(off), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(0, 0, 0, 0)
	section(1, 1, 64, len(info))
	section(10, 3, 64+len(info), len(names))
	return b.Bytes()
}

// kernel writes a tree of modules; the fields of each are given.
func kernel(t *testing.T, modules map[string][]string) fs.FS {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.builtin", []byte("kernel/drivers/mmc/core/mmc_block.ko\nkernel/lib/crc-t10dif.ko\n"))
	for name, fields := range modules {
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "vermagic=") {
			fields = append([]string{"vermagic=" + version + " SMP mod_unload"}, fields...)
		}
		write("kernel/drivers/"+name+".ko", object(fields...))
	}
	return os.DirFS(dir)
}

func order(sets []kmod.Chosen) string {
	var all []string
	for _, s := range sets {
		all = append(all, s.Name+":")
		for _, m := range s.Modules {
			all = append(all, m.Name)
		}
	}
	return strings.Join(all, " ")
}

func TestNeedsComeBeforeWhatNeedsThem(t *testing.T) {
	tree := kernel(t, map[string][]string{
		"virtio":         nil,
		"virtio_ring":    {"depends=virtio"},
		"virtio-net":     {"depends=virtio_ring,net-failover", "alias=virtio:d00000001v*"},
		"net_failover":   {"depends=failover"},
		"failover":       nil,
		"ext4":           {"depends=jbd2,mbcache,crc-t10dif", "softdep=pre: crc32c", "alias=fs-ext4"},
		"jbd2":           nil,
		"mbcache":        nil,
		"crc32c_generic": nil,
		"e1000e":         {"alias=pci:v00008086d0000105Esv*sd*bc*sc*i*"},
	})
	got, err := kmod.Resolve(tree, version, []kmod.Set{{"base", []string{"virtio_net", "mmc_block", "ext4"}}, {"nic", []string{"virtio_net", "e1000e"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := "base: virtio virtio_ring failover net_failover virtio_net jbd2 mbcache crc32c_generic ext4 nic: e1000e"
	if order(got) != want {
		t.Errorf("got  %s\nwant %s", order(got), want)
	}
	wantOrder := "# base\n/lib/modules/6.1.0-1-test/virtio.ko\n/lib/modules/6.1.0-1-test/virtio_ring.ko\n/lib/modules/6.1.0-1-test/failover.ko\n" +
		"/lib/modules/6.1.0-1-test/net_failover.ko\n/lib/modules/6.1.0-1-test/virtio-net.ko\n/lib/modules/6.1.0-1-test/jbd2.ko\n/lib/modules/6.1.0-1-test/mbcache.ko\n" +
		"/lib/modules/6.1.0-1-test/crc32c_generic.ko\n/lib/modules/6.1.0-1-test/ext4.ko\n# nic\n/lib/modules/6.1.0-1-test/e1000e.ko\n"
	if text := kmod.Order(version, got); text != wantOrder {
		t.Errorf("order: got\n%s\nwant\n%s", text, wantOrder)
	}
	for _, want := range []string{
		"/lib/modules/6.1.0-1-test/virtio-net.ko: /lib/modules/6.1.0-1-test/virtio.ko /lib/modules/6.1.0-1-test/virtio_ring.ko /lib/modules/6.1.0-1-test/failover.ko /lib/modules/6.1.0-1-test/net_failover.ko\n",
		"/lib/modules/6.1.0-1-test/virtio.ko:\n",
		"/lib/modules/6.1.0-1-test/ext4.ko: /lib/modules/6.1.0-1-test/jbd2.ko /lib/modules/6.1.0-1-test/mbcache.ko /lib/modules/6.1.0-1-test/crc32c_generic.ko\n",
	} {
		if text := kmod.Depends(version, got); !strings.Contains(text, want) {
			t.Errorf("depends: %q is not in\n%s", want, text)
		}
	}
	wantAliases := "virtio:d00000001v* /lib/modules/6.1.0-1-test/virtio-net.ko\npci:v00008086d0000105Esv*sd*bc*sc*i* /lib/modules/6.1.0-1-test/e1000e.ko\n"
	if text := kmod.Aliases(version, got); text != wantAliases {
		t.Errorf("aliases: got\n%s\nwant\n%s", text, wantAliases)
	}
}

func TestWhatCannotBeResolvedIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		modules map[string][]string
		want    string
	}{
		"unknown":          {map[string][]string{"b": nil}, "module a of set s: the kernel has no such module"},
		"need unknown":     {map[string][]string{"a": {"depends=c"}}, "module a of set s: c: the kernel has no such module"},
		"circle":           {map[string][]string{"a": {"depends=b"}, "b": {"depends=a"}}, "it needs itself: a -> b -> a"},
		"another kernel's": {map[string][]string{"a": {"vermagic=5.10.0 SMP"}}, "it is built for kernel 5.10.0, not for 6.1.0-1-test"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := kmod.Resolve(kernel(t, c.modules), version, []kmod.Set{{"s", []string{"a"}}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestSoftDependenciesAreWishes(t *testing.T) {
	tree := kernel(t, map[string][]string{"a": {"softdep=pre: b nowhere post: c"}, "b": {"softdep=pre: a"}, "c": nil})
	got, err := kmod.Resolve(tree, version, []kmod.Set{{"s", []string{"a"}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "s: b a"; order(got) != want {
		t.Errorf("got %s, want %s", order(got), want)
	}
}

// What an issue has once named must not get lost: drivers of cards, of what
// disks hang on, of watchdogs, and what a mount needs besides the file system.
func TestSetsHaveTheHardwareThatIsPromised(t *testing.T) {
	both := "virtio_net virtio_blk virtio_scsi vfat nls_cp437 nls_ascii crc32c_generic ext4 efivarfs e1000 e1000e igb igc ixgbe i40e ice r8169 tg3 bnxt_en mlx5_core " +
		"nvme ahci sd_mod mmc_block sdhci_pci usb_storage uas xhci_pci i6300esb"
	for arch, more := range map[image.Arch]string{
		image.AMD64: "iTCO_wdt lpc_ich sp5100_tco vmxnet3",
		image.ARM64: "sbsa_gwdt bcm2835_wdt genet realtek motorcomm broadcom mvneta mvpp2 dwmac_rk dwmac_sun8i dwmac_meson8b fsl_enetc fsl_dpaa2_eth sdhci_iproc",
	} {
		have := map[string]bool{}
		for _, s := range kmod.Sets(arch) {
			for _, m := range s.Modules {
				if have[m] {
					t.Errorf("%s: %s is there twice", arch, m)
				}
				have[m] = true
			}
		}
		for m := range strings.FieldsSeq(both + " " + more) {
			if !have[m] {
				t.Errorf("%s: %s is in no set", arch, m)
			}
		}
	}
}
