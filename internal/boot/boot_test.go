package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/slot"
)

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// testBox is a box in a directory: nothing is mounted and nobody is asked.
func testBox(t *testing.T) *Box {
	t.Helper()
	root := t.TempDir()
	b := newBox(root, io.Discard, Options{NewLog: func(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }})
	b.mountFunc = func(string, string, string, uintptr, string) error { return nil }
	b.chown = func(string, int, int) error { return nil }
	t.Cleanup(func() { b.cancel(); b.lines.close() })
	for _, dir := range []string{"data/init", "data/log", "data/config", "run", "esp/loader/entries"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestOnlyTheKernelsInitIsABox(t *testing.T) {
	for _, tt := range []struct {
		pid  int
		args []string
		want bool
	}{{1, []string{"/init"}, true}, {1, []string{"/init", "quiet"}, true}, {1, []string{"/usr/bin/appliance", "run"}, false}, {7, []string{"/init"}, false}, {1, nil, false}} {
		if got := IsBox(tt.pid, tt.args); got != tt.want {
			t.Errorf("pid %d, %q: got %v", tt.pid, tt.args, got)
		}
	}
}

func TestModulesAreLoadedInOrderAndByHardware(t *testing.T) {
	root := t.TempDir()
	put(t, root, "lib/modules/order", "# base\n/m/virtio.ko\n/m/ext4.ko\n# watchdog\n/m/wdt.ko\n# nic\n/m/mdio.ko\n/m/igb.ko\n/m/e1000.ko\n/m/usbnet.ko\n")
	put(t, root, "lib/modules/depends", "/m/virtio.ko:\n/m/igb.ko: /m/mdio.ko\n/m/ext4.ko:\n")
	put(t, root, "lib/modules/aliases", "pci:v00008086d0000150Esv*sd*bc*sc*i* /m/igb.ko\npci:v*d*sv*sd*bc02sc00i0[0-3] /m/e1000.ko\nusb:v1234p*d* /m/usbnet.ko\n")
	put(t, root, "sys/devices/pci0/1/modalias", "pci:v00008086d0000150Esv00000000sd00000000bc02sc00i07\n")
	var loaded []string
	armed := 0
	m, err := readModules(root, func(path string) error {
		loaded = append(loaded, strings.TrimPrefix(path, root))
		switch filepath.Base(path) {
		case "wdt.ko":
			return unix.ENODEV // not this hardware
		case "ext4.ko":
			return unix.EINVAL
		}
		return nil
	}, func() { armed++ })
	if err != nil {
		t.Fatal(err)
	}
	if err := m.loadSet("watchdog"); err != nil {
		t.Errorf("hardware that is absent is an error: %v", err)
	}
	if err := m.loadSet("base"); err == nil || err.Error() != "load ext4.ko: invalid argument" {
		t.Errorf("a module that is broken: %v", err)
	}
	if n, err := m.coldplug(); n != 1 || err != nil {
		t.Errorf("for the hardware %d modules are loaded, %v; want 1", n, err)
	}
	if n, err := m.coldplug(); n != 0 || err != nil {
		t.Errorf("the second time %d, %v", n, err)
	}
	put(t, root, "sys/devices/pci0/1/usb/modalias", "usb:v1234p0001d0100\n") // a bus behind it
	if n, err := m.coldplug(); n != 1 || err != nil {
		t.Errorf("for a new device %d modules are loaded, %v; want 1", n, err)
	}
	want := []string{"/m/wdt.ko", "/m/virtio.ko", "/m/ext4.ko", "/m/mdio.ko", "/m/igb.ko", "/m/usbnet.ko"}
	if !slices.Equal(loaded, want) || armed != len(want) {
		t.Errorf("loaded %q, and looked for a watchdog %d times; want %q", loaded, armed, want)
	}
}

// fakeDisk makes root/dev/NAME and what the kernel shows of it.
func fakeDisk(t *testing.T, root, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(filepath.Join(root, "dev", name), []disk.File{{Path: "/EFI/BOOT/BOOTX64.EFI", Data: []byte("loader")}}); err != nil {
		t.Fatal(err)
	}
	for i, part := range []string{"ESP", "DATA"} {
		one := fmt.Sprint(name, i+1)
		put(t, root, "sys/devices/block/"+name+"/"+one+"/uevent", fmt.Sprintf("DEVNAME=%s\nDEVTYPE=partition\nPARTN=%d\nPARTNAME=%s\n", one, i+1, part))
		link := filepath.Join(root, "sys/class/block", one)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, "sys/devices/block", name, one), link); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheDiskIsFoundByTheNamesOfItsPartitions(t *testing.T) {
	root := t.TempDir()
	if _, _, err := findDisk(root, ""); err == nil || err.Error() != "no disk with the partitions ESP and DATA" {
		t.Errorf("without a disk: %v", err)
	}
	fakeDisk(t, root, "sda")
	fakeDisk(t, root, "vda")
	// A disk that has only one of the two: a stick with somebody's boot loader.
	put(t, root, "sys/class/block/aaa1/uevent", "DEVNAME=aaa1\nPARTN=1\nPARTNAME=ESP\n")
	esp, data, err := findDisk(root, "")
	if err != nil || filepath.Base(esp.Device) != "sda1" || filepath.Base(data.Device) != "sda2" || esp.Number != 1 || data.Number != 2 || esp.disk != "sda" {
		t.Errorf("got %+v, %+v, %v", esp, data, err)
	}
	// Of two it's the one that the loader came from.
	f, err := os.OpenFile(filepath.Join(root, "dev/vda"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xef, 0xbe}, 1024+16); err != nil { // of its ESP's unique GUID
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := readGPT(filepath.Join(root, "dev/vda"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if esp, _, err := findDisk(root, strings.ToLower(e.guid())); err != nil || esp.disk != "vda" {
		t.Errorf("got %+v, %v; want vda, whose ESP is %s", esp, err, e.guid())
	}
	if _, err := readGPT(filepath.Join(root, "dev/vda"), 900); err == nil {
		t.Error("partition 900 is found")
	}
}

// Facts of the loader and the firmware: without a chain of options a kernel that can't be
// loaded ends in the firmware's shell.
func TestTheFirmwareGetsOurLoaderSeveralTimesAndOnlyOnce(t *testing.T) {
	dir := t.TempDir()
	order := []byte{7, 0, 0, 0, 3, 0, 1, 0} // attributes, then Boot0003, Boot0001
	put(t, dir, "BootOrder-"+efiGlobal, string(order))
	n := nvram{dir}
	part := gptEntry{First: 2048, Last: 4095}
	copy(part.Unique[:], "0123456789abcdef")
	changed, err := n.chain(1, part, "/EFI/BOOT/BOOTX64.EFI")
	if err != nil || !changed {
		t.Fatalf("got %v, %v", changed, err)
	}
	got, err := n.read("BootOrder", efiGlobal)
	want := []uint16{0x1000, 0x1001, 0x1002, 0x1003, 3, 1}
	for i, id := range want {
		if err != nil || len(got) != 2*len(want) || binary.LittleEndian.Uint16(got[2*i:]) != id {
			t.Fatalf("the order is % x, %v; want % x", got, err, want)
		}
	}
	if optionCount <= slot.Tries {
		t.Errorf("%d options are too few for %d tries", optionCount, slot.Tries)
	}
	option, err := n.read("Boot1003", efiGlobal)
	if err != nil || !bytes.Contains(option, []byte("0123456789abcdef\x02\x02")) || !bytes.Contains(option, utf16(`\EFI\BOOT\BOOTX64.EFI`)) ||
		!bytes.HasSuffix(option, []byte{0x7f, 0xff, 4, 0}) {
		t.Errorf("Boot1003 is % x, %v", option, err)
	}
	// Each write wears the memory out: there's none the second time.
	for _, name := range []string{"BootOrder", "Boot1000", "Boot1003"} {
		if err := os.Chmod(filepath.Join(dir, name+"-"+efiGlobal), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if changed, err := n.chain(1, part, "/EFI/BOOT/BOOTX64.EFI"); err != nil || changed {
		t.Errorf("the second time: %v, %v", changed, err)
	}
}

func TestDataIsFormattedByItsContentAlone(t *testing.T) {
	device := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(device, 64<<20); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(device); got != blank || err != nil {
		t.Fatalf("a new partition is %v, %v", got, err)
	}
	if err := format(device); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(device); got != ext4 || err != nil {
		t.Errorf("a formatted partition is %v, %v", got, err)
	}
	if fsck, err := exec.LookPath("e2fsck"); err == nil {
		if out, err := exec.Command(fsck, "-f", "-n", device).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	// s_feature_compat, bit 2: a journal. Without one a power cut is a damage.
	if binary.LittleEndian.Uint32(text[1024+92:])&4 == 0 {
		t.Error("the file system has no journal")
	}
	text[ext4MagicAt] ^= 1
	if err := os.WriteFile(device, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(device); got != foreign || err != nil {
		t.Errorf("a partition whose super block is damaged is %v, %v", got, err)
	}
	if err := wipe(device); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(device); got != blank || err != nil {
		t.Errorf("a wiped partition is %v, %v", got, err)
	}
}

// A mount may fail for want of a module: that must never cost the data.
func TestAFailedMountIsNoReasonToFormat(t *testing.T) {
	b := testBox(t)
	device := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(device, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := format(device); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	var mounted []string
	b.mountFunc = func(_, at, fs string, _ uintptr, _ string) error {
		if mounted = append(mounted, fs); fs == "ext4" {
			return unix.ENOENT // as without crc32c
		}
		return nil
	}
	b.openData(partition{Device: device}, false)
	after, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the partition has changed, %v", err)
	}
	if !slices.Equal(mounted, []string{"ext4", "tmpfs"}) || b.dataMounted || !strings.Contains(b.problems["data"], "DATA IS NOT THERE") {
		t.Errorf("mounted %q, there %v, said %q", mounted, b.dataMounted, b.problems["data"])
	}
}

func TestTheLogIsARingAndAConsoleCannotHoldItUp(t *testing.T) {
	dir := t.TempDir()
	stuck, release := io.Pipe()
	l := newLines(release) // nobody reads it
	fmt.Fprintf(l, "early\nhalf a ")
	if err := l.keep(dir); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(l, "line\n")
	text := string(l.tail(1 << 20))
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) != 2 || !strings.HasSuffix(lines[0], "Z early") || !strings.HasSuffix(lines[1], "Z half a line") {
		t.Errorf("the log is %q", text)
	}
	long := strings.Repeat("x", 1000) + "\n"
	for range 3 * ringSize / len(long) {
		fmt.Fprint(l, long)
	}
	for _, name := range []string{logName, logName + ".1"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() > ringSize {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if n := len(l.tail(5000)); n > 5000 || n < 2000 {
		t.Errorf("the tail has %d bytes", n)
	}
	_ = stuck.Close()
	l.close()
	l.close()
	fmt.Fprint(l, "after the end\n") // must not panic
}

var (
	old = bundle.Release{Version: "v1", Build: 1, Arch: "amd64"}
	neu = bundle.Release{Version: "v2", Build: 2, Arch: "amd64"}
)

func TestTheStoryOfAnUpdate(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	bad := []slot.Entry{{Slot: slot.A}, {Slot: slot.B, Counted: true, Done: 3}}
	start := func() *Story {
		s := &Story{}
		s.begin(BootRecord{Time: at, Slot: slot.A, Release: old, Good: true}, false)
		s.add(UpdateRecord{Time: at, From: old, To: neu, Slot: slot.B, Result: Installed})
		s.now().End = "reboot: asked by the operator"
		return s
	}
	try := func(s *Story, n int, end string) {
		s.begin(BootRecord{Time: at.Add(time.Minute), Slot: slot.B, Release: neu, Try: n}, false)
		s.now().End = end
	}

	s := start()
	if s.judge(slot.A, []slot.Entry{{Slot: slot.B, Counted: true, Left: 3}}) || s.update().Result != Installed {
		t.Errorf("not booted yet: %+v", s.update())
	}
	if s.judge(slot.B, []slot.Entry{{Slot: slot.B, Counted: true, Left: 2, Done: 1}}) || s.update().Result != OnTrial {
		t.Errorf("on trial: %+v", s.update())
	}
	if s.judge(slot.B, []slot.Entry{{Slot: slot.B}}) || s.update().Result != Good {
		t.Errorf("good: %+v", s.update())
	}
	if s.judge(slot.A, bad) || s.update().Result != Good {
		t.Errorf("what was good is judged again: %+v", s.update())
	}

	s = start()
	if !s.judge(slot.A, bad) || s.update().Result != RolledBack || !strings.Contains(s.update().Why, "each of 3 tries ended before the data partition was there") {
		t.Errorf("a kernel that crashes: %+v", s.update())
	}

	s = start()
	try(s, 1, "reboot: not good after 40s: the appliance is not ready")
	try(s, 2, "")
	s.now().Last = "the appliance ended with status 1"
	s.begin(BootRecord{Time: at.Add(2 * time.Minute), Slot: slot.A, Release: old}, true)
	want := "1 of 3 tries ended before the data partition was there: the kernel could not be loaded, or crashed, or hung; " +
		"try 1: reboot: not good after 40s: the appliance is not ready; " +
		"try 2: the hardware watchdog has reset the box: it had no sign of life for too long (seen before: the appliance ended with status 1)"
	if !s.judge(slot.A, bad) || s.update().Why != want {
		t.Errorf("got\n%s\nwant\n%s", s.update().Why, want)
	}
	if s.before().Number != 3 || s.now().Number != 4 {
		t.Errorf("boots are %+v", s.Boots)
	}

	s = start()
	if !s.judge(slot.A, []slot.Entry{{Slot: slot.A}}) || !strings.Contains(s.update().Why, "its boot entry is gone") {
		t.Errorf("without an entry: %+v", s.update())
	}
	s = start()
	s.add(UpdateRecord{To: neu})
	if s.Updates[0].Result != Replaced {
		t.Errorf("an update before the first was booted: %+v", s.Updates[0])
	}

	file := filepath.Join(t.TempDir(), "story.json")
	if err := s.save(file); err != nil {
		t.Fatal(err)
	}
	if got, err := loadStory(file); err != nil || len(got.Updates) != 2 {
		t.Errorf("read again: %+v, %v", got, err)
	}
	put(t, filepath.Dir(file), "story.json", "{")
	if got, err := loadStory(file); err == nil || len(got.Boots) != 0 {
		t.Errorf("a damaged one: %+v, %v", got, err)
	}
	for range 100 {
		try(s, 1, "x")
		s.add(UpdateRecord{})
	}
	if len(s.Boots) != mostBoots || len(s.Updates) != mostUpdates {
		t.Errorf("kept are %d boots and %d updates", len(s.Boots), len(s.Updates))
	}
}

func TestTheClockNeverGoesBack(t *testing.T) {
	early, late := time.Unix(1000, 0), time.Unix(2000, 0)
	if got := latest(late, early, early); got != late {
		t.Errorf("a right clock is set back to %v", got)
	}
	if got := latest(early, late, early); got != late {
		t.Errorf("got %v, want the saved time", got)
	}
	if got := latest(early, time.Time{}, late); got != late {
		t.Errorf("got %v, want the firmware's", got)
	}
	if got := kernelBuilt("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-10)"); !got.Equal(time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the kernel is of %v", got)
	}
	if got := kernelBuilt("#1 SMP"); !got.IsZero() {
		t.Errorf("a kernel without a date is of %v", got)
	}
	b := testBox(t)
	b.saveClock(false)
	if got := readTime(b.path("data/init/clock")); time.Since(got) > time.Minute || time.Since(got) < -time.Second {
		t.Errorf("saved was %v", got)
	}
}

func TestWhatTheAppliancesNoticesSay(t *testing.T) {
	n := parseNotice("READY=1\nSTATUS=serving 3 services\n")
	if !n.ready || n.status != "serving 3 services" || n.alive {
		t.Errorf("got %+v", n)
	}
	if n := parseNotice("WATCHDOG=1"); !n.alive || n.ready {
		t.Errorf("got %+v", n)
	}
	if n := parseNotice("STOPPING=1\nMAINPID=77\nEXTEND_TIMEOUT_USEC=2500000"); !n.stopping || n.pid != 77 || n.extend != 2500*time.Millisecond {
		t.Errorf("got %+v", n)
	}
	if n := parseNotice("MAINPID=x\nREADY=0\n\n=\n"); n.ready || n.pid != 0 {
		t.Errorf("got %+v", n)
	}
}

func TestAnApplianceThatFailsIsStartedLessAndLessOften(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: longestPause, 1000: longestPause} {
		if got := pause(n); got != want {
			t.Errorf("after %d failures: got %v, want %v", n, got, want)
		}
	}
	b := testBox(t)
	for range mostFailures {
		if len(b.orders) > 0 {
			t.Fatalf("it gives up after %d failures", b.appliance.failures)
		}
		b.failed("the appliance ended with status 1")
	}
	if o := <-b.orders; o.Kind != Reboot || o.Why != "the appliance ended with status 1, 10 times in a row" {
		t.Errorf("got %+v", o)
	}
}

// Exit status 2 is a configuration that is wrong: the box must be reachable all the same.
func TestAWrongConfigurationMakesTheBoxRunOnTheBuiltInOne(t *testing.T) {
	b := testBox(t)
	put(t, b.root, DefaultConfig, "built-in\n")
	if got := b.configFile(); got != b.path(DefaultConfig) {
		t.Errorf("without one of its own it runs on %s", got)
	}
	b.firstConfig()
	if text, err := os.ReadFile(b.path(ConfigFile)); string(text) != "built-in\n" || err != nil {
		t.Errorf("the first configuration is %q, %v", text, err)
	}
	put(t, b.root, ConfigFile, "the operator's\n")
	b.firstConfig()
	if text, _ := os.ReadFile(b.path(ConfigFile)); string(text) != "the operator's\n" {
		t.Errorf("the operator's is written over by %q", text)
	}
	b.appliance.exited = make(chan syscall.WaitStatus)
	b.exitedWith(syscall.WaitStatus(1 << 8))
	if got := b.configFile(); got != b.path(ConfigFile) {
		t.Errorf("after another failure it runs on %s", got)
	}
	b.exitedWith(syscall.WaitStatus(2 << 8))
	if got := b.configFile(); got != b.path(DefaultConfig) || !strings.Contains(b.problems["config"], "THE CONFIGURATION IS WRONG") {
		t.Errorf("it runs on %s, and says %q", got, b.problems["config"])
	}
}

// A box whose data has turned read-only boots for e2fsck, once an hour at most.
func TestABootForTheSakeOfE2fsckIsNotRepeated(t *testing.T) {
	b := factoryESP(t, false)
	if !b.markReadOnly() {
		t.Error("the first time it does not boot")
	}
	if b.markReadOnly() {
		t.Error("it boots again and again")
	}
}

func TestAnApplianceThatGivesNoSignOfLifeIsNoticed(t *testing.T) {
	now := time.Now()
	exited := make(chan syscall.WaitStatus)
	for name, tt := range map[string]struct {
		a    appliance
		want string
	}{
		"none":      {appliance{}, ""},
		"well":      {appliance{exited: exited, ready: true, sign: now.Add(-10 * time.Second), answered: now.Add(-4 * time.Second)}, ""},
		"starts":    {appliance{exited: exited, started: now.Add(-30 * time.Second)}, ""},
		"never":     {appliance{exited: exited, started: now.Add(-61 * time.Second)}, "did not get ready"},
		"stopped":   {appliance{exited: exited, ready: true, sign: now.Add(-23 * time.Second), answered: now}, "no sign of life"},
		"deaf":      {appliance{exited: exited, ready: true, sign: now, answered: now.Add(-31 * time.Second)}, "did not answer"},
		"drains":    {appliance{exited: exited, ready: true, stopping: true, sign: now.Add(-time.Hour)}, ""},
		"in a rest": {appliance{exited: exited, ready: true, sign: now.Add(-signOfLife), answered: now.Add(-signOfLife)}, ""},
	} {
		if got := tt.a.lifeless(now); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func TestANewSlotIsGoodOnlyIfAllIsWell(t *testing.T) {
	exited := make(chan syscall.WaitStatus)
	for name, tt := range map[string]struct {
		spoil func(b *Box)
		want  string
	}{
		"well":         {func(*Box) {}, ""},
		"no ESP":       {func(b *Box) { b.esp = nil }, "EFI partition"},
		"no data":      {func(b *Box) { b.dataMounted = false }, "data partition"},
		"built-in":     {func(b *Box) { b.appliance.builtin = true }, "configuration is not taken"},
		"gone":         {func(b *Box) { b.appliance.exited = nil }, "does not run"},
		"not ready":    {func(b *Box) { b.appliance.ready = false }, "not ready"},
		"deaf":         {func(b *Box) { b.askErr = "timeout" }, "does not answer: timeout"},
		"not asked":    {func(b *Box) { b.heard = false }, "not answered yet"},
		"drains":       {func(b *Box) { b.health.Serving = false }, "does not serve"},
		"service":      {func(b *Box) { b.health.Quiet = []string{"web"} }, "services do not answer: web"},
		"link":         {func(b *Box) { b.health.Down = []string{"eth1"} }, "no link: eth1"},
		"old no link":  {func(b *Box) { b.health.Down = []string{"eth1"}; b.story.Updates[0].Up = []string{"eth0"} }, ""},
		"link is lost": {func(b *Box) { b.story.Updates[0].Up = []string{"eth0", "eth7"} }, "no link: eth7"},
	} {
		t.Run(name, func(t *testing.T) {
			b := testBox(t)
			b.slot, b.esp, b.dataMounted, b.heard = slot.B, slot.At(b.path("esp")), true, true
			b.appliance = appliance{exited: exited, ready: true}
			b.health = Health{Serving: true, Up: []string{"eth0"}}
			b.story.Updates = []UpdateRecord{{Slot: slot.B}}
			tt.spoil(b)
			if got := b.wrong(); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// factoryESP is a box with slot A, and B on trial if it says so.
func factoryESP(t *testing.T, trial bool) *Box {
	t.Helper()
	b := testBox(t)
	b.esp, b.slot, b.release = slot.At(b.path("esp")), slot.A, old
	a := slot.Entry{Slot: slot.A, Release: old, Sequence: 1}
	put(t, b.root, "esp/loader/entries/"+a.Name(), string(a.Text()))
	b.command = "lastack.slot=A"
	if trial {
		e := slot.Entry{Slot: slot.B, Counted: true, Left: 2, Done: 1, Release: neu, Sequence: 2}
		put(t, b.root, "esp/loader/entries/"+e.Name(), string(e.Text()))
		b.command, b.release = "lastack.slot=B lastack.stable=0s", neu
	}
	b.beginStory()
	return b
}

func TestASlotThatIsWellForAWhileIsKept(t *testing.T) {
	b := factoryESP(t, true)
	b.story.Updates = []UpdateRecord{{Slot: slot.B, Result: OnTrial}}
	if !b.onTrial() || b.try != 1 || b.stable != 0 {
		t.Fatalf("trial %v, try %d, stable %v", b.onTrial(), b.try, b.stable)
	}
	b.assess(time.Now())
	if !b.onTrial() {
		t.Error("a slot without an appliance is good")
	}
	b.dataMounted, b.heard, b.appliance, b.health = true, true, appliance{exited: make(chan syscall.WaitStatus), ready: true}, Health{Serving: true}
	b.assess(time.Now())
	if e, _, err := b.esp.Entry(slot.B); b.onTrial() || err != nil || e.Counted || b.story.update().Result != Good || !b.story.now().Good {
		t.Errorf("trial %v, entry %+v, %v, story %+v", b.onTrial(), e, err, b.story)
	}
}

// A new kernel that cannot mount the EFI partition can't see that it is on trial; the story says so.
func TestASlotThatCannotSeeItsEntryIsOnTrial(t *testing.T) {
	b := testBox(t)
	b.command, b.release = "lastack.slot=B", neu
	s := Story{Updates: []UpdateRecord{{Slot: slot.B, To: neu, Result: Installed}}}
	if err := s.save(b.path(storyPath)); err != nil {
		t.Fatal(err)
	}
	b.beginStory()
	if !b.onTrial() || b.slot != slot.B || b.story.update().Result != Installed {
		t.Errorf("trial %v, slot %s, update %+v", b.onTrial(), b.slot, b.story.update())
	}
	if err := b.commit("test"); err == nil {
		t.Error("it is good")
	}
}

func TestASlotThatIsNotWellInTimeIsLeft(t *testing.T) {
	b := factoryESP(t, true)
	b.trialTime = 0
	b.assess(time.Now())
	if o := <-b.orders; o.Kind != Reboot || !strings.HasPrefix(o.Why, "not good after 0s: the data partition") {
		t.Errorf("got %+v", o)
	}
}

// The commands as they come through the socket.
func TestTheControlSocket(t *testing.T) {
	b := factoryESP(t, true)
	c, err := b.listenControl()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	client, ctx := NewClient(b.path(ControlSocket)), context.Background()

	s, err := client.Status(ctx)
	if err != nil || s.Release != neu || s.Slot != slot.B || !s.Trial || len(s.Slots) != 2 || s.Slots[1].State != "on trial: 1 of 3 tries used" || !s.Slots[1].Running || s.Slots[0].State != "good" {
		t.Errorf("status is %+v, %v", s, err)
	}
	if _, err := client.Install(ctx, strings.NewReader("x"), false); err == nil || !strings.Contains(err.Error(), "no update keys") {
		t.Errorf("without keys: %v", err)
	}
	to, err := client.Rollback(ctx)
	if err != nil || to != "slot A (v1 (build 1))" {
		t.Errorf("rollback goes to %q, %v", to, err)
	}
	if e, _, _ := b.esp.Entry(slot.B); !e.Bad() {
		t.Errorf("after a rollback the trial's entry is %s", e.Name())
	}
	if err := client.Commit(ctx); err != nil {
		t.Error(err)
	}
	if err := client.Power(ctx, "halt", false); err == nil || !strings.Contains(err.Error(), `"halt" is neither`) {
		t.Errorf("got %v", err)
	}
	if err := client.Power(ctx, Reboot, true); err != nil {
		t.Error(err)
	}
	if o := <-b.orders; o.Kind != Reboot || !o.Suspend {
		t.Errorf("ordered was %+v", o)
	}
	if err := client.FactoryReset(ctx); err != nil || !b.resetAsked() {
		t.Errorf("a factory reset: %v", err)
	}
	if b.resetAsked() {
		t.Error("a factory reset is done twice")
	}
	fmt.Fprintln(b.lines, "one line")
	if text, err := client.Log(ctx); err != nil || !strings.Contains(text, "one line") {
		t.Errorf("the log is %q, %v", text, err)
	}
	if _, err := NewClient(b.path("run/nobody")).Status(ctx); err == nil || !strings.Contains(err.Error(), "no firmware runs here") {
		t.Errorf("without a box: %v", err)
	}
}

// At the last try the loader has none left, but the slot runs: it's not bad yet.
func TestTheLastTryIsATrial(t *testing.T) {
	b := factoryESP(t, true)
	if err := os.Rename(b.path("esp/loader/entries/b+2-1.conf"), b.path("esp/loader/entries/b+0-3.conf")); err != nil {
		t.Fatal(err)
	}
	b.beginStory()
	s, err := b.status()
	if err != nil || !s.Trial || s.Slots[1].State != "on trial: the last of 3 tries" {
		t.Errorf("trial %v, slots %+v, %v", s.Trial, s.Slots, err)
	}
	if err := b.commit("test"); err != nil {
		t.Error(err)
	}
	if e, _, _ := b.esp.Entry(slot.B); e.Counted {
		t.Errorf("its entry is %s", e.Name())
	}
}

func TestAResetIsAskedForOnTheCommandLine(t *testing.T) {
	b := testBox(t)
	for line, want := range map[string]bool{"quiet lastack.reset=1": true, "quiet": false, "lastack.reset=0": false, "xlastack.reset=1": false} {
		if b.command = line; b.resetAsked() != want {
			t.Errorf("%q: got %v", line, !want)
		}
	}
}

func TestAnOptionThatIsNotUnderstoodLeavesTheDefault(t *testing.T) {
	b := testBox(t)
	b.command = "lastack.stable=5s lastack.trial=soon"
	if got := b.span("lastack.stable", time.Hour); got != 5*time.Second {
		t.Errorf("got %v", got)
	}
	if got := b.span("lastack.trial", time.Hour); got != time.Hour {
		t.Errorf("got %v", got)
	}
}

func TestThePowerButtonIsPressed(t *testing.T) {
	event := func(typ, code uint16, value int32) []byte {
		out, err := binary.Append(nil, binary.NativeEndian, inputEvent{Type: typ, Code: code, Value: value})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	others := slices.Concat(event(0, 0, 0), event(evKey, 30, 1), event(evKey, keyPower, 0))
	if pressed(bytes.NewReader(others)) {
		t.Error("another key, or its release, switches the box off")
	}
	if !pressed(bytes.NewReader(append(others, event(evKey, keyPower, 1)...))) {
		t.Error("it was not seen")
	}
}

func TestHostNames(t *testing.T) {
	for name, want := range map[string]bool{"box-1": true, "": false, "-a": false, "a-": false, "a b": false, "a\n": false, strings.Repeat("a", 64): false} {
		if validHostname(name) != want {
			t.Errorf("%q: got %v", name, !want)
		}
	}
}

// A check of the disk, or a command before the appliance, that does not end must not hold up the boot for ever.
func TestAProcessThatDoesNotEndInTimeIsKilled(t *testing.T) {
	b := testBox(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct {
		seconds string
		most    time.Duration
		killed  bool
	}{{"0", time.Minute, false}, {"60", 10 * time.Millisecond, true}} {
		p, err := os.StartProcess(sleep, []string{"sleep", tt.seconds}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		exited := make(chan syscall.WaitStatus, 1)
		go func() { // ends with the process
			if st, err := p.Wait(); err == nil {
				exited <- st.Sys().(syscall.WaitStatus)
			}
		}()
		if got := b.waitFor(p, exited, tt.most); got.Signaled() != tt.killed {
			t.Errorf("sleep %s, for %v at most: status %v", tt.seconds, tt.most, got)
		}
	}
}
