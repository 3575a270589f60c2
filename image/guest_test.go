package image_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/cpio"
	"github.com/lastack/lastack/image/deb"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/kmod"
	"github.com/lastack/lastack/image/lock"
	"github.com/lastack/lastack/image/vm"
)

// What the tests of cards need of the kernel: VLAN links, which machines that
// build often lack, and on the image nobody makes; the links of the laboratory;
// and the filters of a claimed card, as the image has them.
var cardModules = []kmod.Set{
	{Name: "links", Modules: []string{"8021q", "veth", "tun", "macvlan", "bridge"}},
	{Name: "filters", Modules: []string{"sch_ingress", "cls_bpf", "act_gact", "cls_matchall"}},
}

// How long the tests of netif may take in an emulated machine, what they must
// have shown there, and what has nothing to do with a kernel and takes minutes.
const (
	cardPatience = 20 * time.Minute
	cardArgs     = "-test.v -test.skip=^TestRandomFramesCrashNothing$ -test.timeout=15m"
)

var (
	cardTests = []string{
		"TestBytesAreTheSameOverEveryKindOfCard/VLAN_10,_tagged_by_the_kernel",
		"TestBytesAreTheSameOverEveryKindOfCard/link_of_VLAN_10,_claimed",
		"TestTapAndMacvlanAndBridge/vlan",
		"TestVLANLinkOnAClaimedCardGoesOn",
	}
	// Linux can rename a card that is up from 6.2 on.
	cardSkips = []string{"TestReleaseFindsARenamedCard", "TestRenamedCardIsStillFollowed"}
)

// All tests of netif, on the kernel that is shipped. The program is the only one
// in its machine.
func TestCardsOfEveryKindOnTheImagesKernel(t *testing.T) {
	long(t)
	eachArch(t, func(t *testing.T, arch image.Arch) {
		files := read(t, factory(t, arch))
		at := slices.IndexFunc(files, func(f disk.File) bool { return f.Path == "/A/initrd" })
		files[at].Data = testArchive(t, arch, "./netif", cardModules, cardArgs)
		r := boot(t, arch, func(c *vm.Config) {
			c.Disk += ".tests"
			c.Memory, c.CPUs, c.NoReboot = 1024, 2, true
			if err := disk.Write(c.Disk, files); err != nil {
				t.Fatal(err)
			}
		})
		ctx, stop := context.WithTimeout(t.Context(), cardPatience)
		defer stop()
		end, err := r.Expect(ctx, `guest: the tests (did not run.*|ended with status \d+)`)
		if err != nil {
			t.Fatal(err)
		}
		if end[1] != "ended with status 0" {
			t.Errorf("the tests %s", end[1])
		}
		passed, skipped, faults := judge(r.Console())
		t.Logf("%d tests passed within %v of the power, skipped were %v", passed, r.Up().Round(time.Second), skipped)
		for _, fault := range faults {
			t.Error(fault)
		}
	})
}

// judge reads what a run of cardTests and others has said, and what it failed to show.
func judge(console string) (passed int, skipped, faults []string) {
	got := map[string][]string{}
	for _, verdict := range regexp.MustCompile(`(?m)^ *--- (PASS|SKIP|FAIL): (\S+)`).FindAllStringSubmatch(console, -1) {
		got[verdict[1]] = append(got[verdict[1]], verdict[2])
	}
	for _, want := range cardTests {
		if !slices.Contains(got["PASS"], want) {
			faults = append(faults, want+" did not pass")
		}
	}
	for _, name := range got["SKIP"] {
		if !slices.Contains(cardSkips, name) {
			faults = append(faults, name+" was skipped")
		}
	}
	return len(got["PASS"]), got["SKIP"], faults
}

func TestARunThatShowsNoVLANLinkIsRefused(t *testing.T) {
	var good strings.Builder
	fmt.Fprintf(&good, "--- SKIP: %s (0.00s)\r\n", cardSkips[0])
	for _, name := range cardTests {
		fmt.Fprintf(&good, "    --- PASS: %s (0.10s)\r\n", name)
	}
	vlan := cardTests[0]
	for name, c := range map[string]struct {
		console string
		faults  int
	}{
		"all passed":   {good.String(), 0},
		"skipped":      {strings.Replace(good.String(), "PASS: "+vlan, "SKIP: "+vlan, 1), 2},
		"failed":       {strings.Replace(good.String(), "PASS: "+vlan, "FAIL: "+vlan, 1), 1},
		"never begun":  {strings.Replace(good.String(), vlan, "TestOther", 1), 1},
		"another skip": {good.String() + "--- SKIP: TestOther (0.00s)\r\n", 1},
	} {
		if _, _, faults := judge(c.console); len(faults) != c.faults {
			t.Errorf("%s: got %q, want %d faults", name, faults, c.faults)
		}
	}
}

// testArchive is an initramfs that runs the tests of a package.
func testArchive(t *testing.T, arch image.Arch, pkg string, sets []kmod.Set, args string) []byte {
	t.Helper()
	kernel, modules := modulesOf(t, arch, sets)
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(z)
	add := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, data []byte) { add(w.File(name[1:], 0o755, data)) }
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "lib", image.ModulesDir[1:], path.Join(image.ModulesDir, kernel)[1:]} {
		add(w.Dir(dir, 0o755))
	}
	add(w.Device("dev/console", 0o600, 5, 1)) // mem(4)
	file(image.InitPath, compile(t, arch, "build", "./image/guest"))
	file("/test", compile(t, arch, "test", "-c", pkg))
	file("/args", []byte(args))
	file(path.Join(image.ModulesDir, kmod.OrderFile), []byte(kmod.Order(kernel, modules)))
	for _, set := range modules {
		for _, m := range set.Modules {
			file(kmod.Path(kernel, m), m.Data)
		}
	}
	add(w.Close())
	add(z.Close())
	return out.Bytes()
}

// modulesOf are modules of the kernel that an image has.
func modulesOf(t *testing.T, arch image.Arch, sets []kmod.Set) (version string, chosen []kmod.Chosen) {
	t.Helper()
	list, store := debian(t)
	p, err := list.Find(lock.Kernel, arch)
	if err != nil {
		t.Fatal(err)
	}
	file, err := store.Get(t.Context(), list.Suite, p)
	unless(t, err)
	dir, err := deb.Unpack(t.Context(), file, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	version = p.KernelVersion()
	if chosen, err = kmod.Resolve(os.DirFS(filepath.Join(dir, "lib/modules", version)), version, sets); err != nil {
		t.Fatal(err)
	}
	return version, chosen
}

// compile is a static program, by a command of go and its arguments, of the module's root.
func compile(t *testing.T, arch image.Arch, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	args = append([]string{args[0], "-trimpath", "-ldflags=-s -w", "-o", out}, args[1:]...)
	cmd := exec.Command("go", args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+string(arch))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v for %s: %v\n%s", args, arch, err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
