package boot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/cpio"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/vm"
	"github.com/lastack/lastack/internal/boot"
)

// These tests boot real images in QEMU, under UEFI, without KVM. The binary on
// them is the product's with the tag boottest: it takes commands on the console
// without a login, and fails on request (cmd/appliance/sabotage_on.go).

// factory is an image and all that bundles are made of.
type factory struct {
	arch    image.Arch
	dir     string
	disk    string
	kernel  string
	initrd  string
	private minisign.PrivateKey
}

// factories builds each architecture's once.
type factories struct {
	mu  sync.Mutex
	dir string
	all map[image.Arch]*factory
}

var built = &factories{all: make(map[image.Arch]*factory)} // of one test process

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lastack-boot-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// must reports whether a test that can't run is a failure.
func must() bool { return os.Getenv("APPLIANCE_TEST") == "require" }

// long lets a test run that only make test-image wants.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("APPLIANCE_IMAGE_TEST") == "" {
		t.Skip("a part of make test-image")
	}
}

// needFactory builds what is needed to boot an architecture, or skips.
func needFactory(t *testing.T, arch image.Arch) *factory {
	t.Helper()
	if testing.Short() {
		t.Skip("boots take half a minute")
	}
	if _, _, err := vm.Need(arch); err != nil {
		if must() {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	f := built.all[arch]
	if f == nil {
		f = buildFactory(t, arch)
		built.all[arch] = f
	}
	return f
}

func buildFactory(t *testing.T, arch image.Arch) *factory {
	t.Helper()
	f := &factory{arch: arch, dir: filepath.Join(built.dir, string(arch))}
	f.disk, f.kernel, f.initrd = filepath.Join(f.dir, "box.img"), filepath.Join(f.dir, "slot", bundle.Kernel), filepath.Join(f.dir, "slot", bundle.Initrd)
	begun := time.Now()
	binary := goBuild(t, f.dir, string(arch))
	host := binary
	if runtime.GOARCH != string(arch) {
		host = goBuild(t, filepath.Join(built.dir, "host"), runtime.GOARCH)
	}
	var public minisign.PublicKey
	var err error
	if public, f.private, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(f.dir, "test.pub")
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, host, "image", "build", "--arch", string(arch), "--binary", binary, "--output", f.disk, "--slot-dir", filepath.Join(f.dir, "slot"),
		"--release", "v1", "--build-number", "1", "--update-key", key, "--uncompressed")
	t.Logf("built the %s image in %v", arch, time.Since(begun).Round(time.Second))
	return f
}

func goBuild(t *testing.T, dir, arch string) string {
	t.Helper()
	out := filepath.Join(dir, "appliance")
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-tags", "boottest", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=test", "-o", out, "github.com/lastack/lastack/cmd/appliance")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build for %s: %v\n%s", arch, err, text)
	}
	return out
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if text, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, text)
	}
}

// variant says how a bundle differs from the image.
type variant struct {
	build    uint64
	arch     string // another one
	sabotage string // on the kernel's command line
	options  string // more of it
	kernel   []byte // instead
	cut      int64  // bytes of the initramfs that are left
	minFrom  uint64
	stranger bool  // signed by a key that the box does not have
	length   int64 // of the bundle, cut off there
}

// noKernel is what the loader cannot load.
func noKernel() []byte { return bytes.Repeat([]byte("no kernel "), 1000) }

// quickOptions make a trial short.
const quickOptions = "lastack.stable=2s lastack.trial=40s panic=1"

// bundle makes one, as a file.
func (f *factory) bundle(t *testing.T, v variant) string {
	t.Helper()
	m := bundle.Manifest{Release: bundle.Release{Version: fmt.Sprint("v", v.build), Build: v.build, Arch: string(f.arch), Kernel: "test"}, MinFrom: v.minFrom}
	if v.arch != "" {
		m.Arch = v.arch
	}
	m.Options = f.arch.CommandLine() + " " + quickOptions + " " + v.options
	if v.sabotage != "" {
		m.Options += " sabotage=" + v.sabotage
	}
	dir := t.TempDir()
	kernel, initrd := f.kernel, f.overlay(t, dir, m.Release, v.cut)
	if v.kernel != nil {
		kernel = filepath.Join(dir, "kernel")
		if err := os.WriteFile(kernel, v.kernel, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := f.private
	if v.stranger {
		var err error
		if _, key, err = minisign.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := bundle.Write(&out, m, kernel, initrd, key); err != nil {
		t.Fatal(err)
	}
	data := out.Bytes()
	if v.length > 0 {
		data = data[:v.length]
	}
	path := filepath.Join(dir, "bundle")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// overlay is the image's initramfs with another release in it: the kernel unpacks a second archive
// over the first.
func (f *factory) overlay(t *testing.T, dir string, r bundle.Release, cut int64) string {
	t.Helper()
	base, err := os.ReadFile(f.initrd)
	if err != nil {
		t.Fatal(err)
	}
	if cut > 0 {
		base = base[:cut]
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var more bytes.Buffer
	w := cpio.NewWriter(&more)
	if err := errors.Join(w.File(strings.TrimPrefix(bundle.ReleaseFile, "/"), 0o644, text), w.Close()); err != nil {
		t.Fatal(err)
	}
	for len(base)%4 != 0 {
		base = append(base, 0)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, append(base, more.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// machine is a box that runs, with its disk.
type machine struct {
	*vm.Machine
	t      *testing.T
	config vm.Config
}

// boot starts a box, as prepare says.
func (f *factory) boot(t *testing.T, bundles ...string) *machine {
	t.Helper()
	m := f.prepare(t, bundles...)
	m.powerOn()
	t.Cleanup(m.powerCut)
	return m
}

// prepare makes a box whose disk is fresh from the factory. The bundles are its second disk and
// those that follow: /dev/vdb, /dev/vdc. Its echo service is at echo().
func (f *factory) prepare(t *testing.T, bundles ...string) *machine {
	t.Helper()
	port := freePort(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	run(t, "cp", "--sparse=always", f.disk, path)
	c := vm.Config{Arch: f.arch, Disk: path, Vars: filepath.Join(dir, "vars"), Alone: true, Forwards: []vm.Forward{{Host: port, Guest: 7}}}
	for i, b := range bundles {
		c.Extra = append(c.Extra, "-drive", fmt.Sprintf("if=none,id=b%d,format=raw,readonly=on,file=%s", i, b), "-device", fmt.Sprintf("virtio-blk-pci,drive=b%d", i))
	}
	return &machine{t: t, config: c}
}

// freePort is one of 127.0.0.1 that nobody listened on a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// echo connects to the box's echo service.
func (m *machine) echo() net.Conn {
	m.t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", m.config.Forwards[0].Host), 10*time.Second)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// say sends a line to the echo service and wants it back.
func (m *machine) say(c net.Conn, within time.Duration, line string) {
	m.t.Helper()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		m.t.Fatal(err)
	}
	if _, err := c.Write([]byte(line)); err != nil {
		m.t.Fatalf("say %q: %v", line, err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		m.t.Fatalf("said %q and heard %q, %v", line, got, err)
	}
}

func (m *machine) powerOn() {
	m.t.Helper()
	var err error
	if m.Machine, err = vm.Start(m.config); err != nil {
		m.t.Fatal(err)
	}
}

// powerCut is what the name says: what the guest has not brought to the disk is lost, what QEMU
// has in the host's memory is not.
func (m *machine) powerCut() {
	if err := m.Close(); err != nil {
		m.t.Error(err)
	}
	if m.t.Failed() {
		m.t.Logf("the console of %s:\n%s", m.config.Arch, m.Console())
	}
}

// expect waits for text on the console.
func (m *machine) expect(within time.Duration, pattern string) []string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), within)
	defer cancel()
	got, err := m.Expect(ctx, pattern)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	return got
}

// ready waits until the appliance serves from a slot.
func (m *machine) ready(release string) {
	m.t.Helper()
	m.expect(bootTime, regexp.QuoteMeta("release=\""+release+" "))
	m.expect(bootTime, "the appliance is ready")
}

const bootTime = 90 * time.Second // under TCG, on a machine that has other things to do

// do runs a command on the box, and returns what it says and its exit status.
func (m *machine) do(within time.Duration, line string) (out string, status string) {
	m.t.Helper()
	if err := m.Type(line + "\n"); err != nil {
		m.t.Fatal(err)
	}
	got := m.expect(within, `(?s)\n?(.*?)<exit (\d+)>`)
	return strings.ReplaceAll(got[1], "\r", ""), got[2]
}

// must runs a command that must succeed.
func (m *machine) must(within time.Duration, line string) string {
	m.t.Helper()
	out, status := m.do(within, line)
	if status != "0" {
		m.t.Fatalf("%s: exit status %s:\n%s", line, status, out)
	}
	return out
}

// tell sends a line that has no answer.
func (m *machine) tell(line string) {
	m.t.Helper()
	if err := m.Type(line + "\n"); err != nil {
		m.t.Fatal(err)
	}
}

// story is what the box says of itself.
func (m *machine) story() boot.Status {
	m.t.Helper()
	out := m.must(30*time.Second, "update status --json")
	begin, end := strings.Index(out, "{"), strings.LastIndex(out, "}")
	var s boot.Status
	if begin < 0 || end < begin {
		m.t.Fatalf("no status in %q", out)
	}
	if err := json.Unmarshal([]byte(out[begin:end+1]), &s); err != nil {
		m.t.Fatalf("%v in %q", err, out)
	}
	return s
}

// A boot, an update that is good, and one that is not, from which the box comes back by itself: a kernel that can't
// be loaded, which takes the least time, and which only the chain of boot options gets past.
func TestABoxBootsUpdatesAndRollsBack(t *testing.T) {
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			m := f.boot(t, f.bundle(t, variant{build: 2}), f.bundle(t, variant{build: 3, kernel: noKernel()}))
			m.ready("v1")
			t.Logf("power on to ready: %v", m.Up().Round(100*time.Millisecond))

			// The operator's configuration, on which it goes on after a kill.
			m.must(time.Minute, `put /data/config/appliance.yaml {interfaces: {eth0: {addresses: [10.0.2.15/24], gateway: 10.0.2.2}}, services: {mine: {type: echo, listen: "eth0:7"}}, policies: {default: {time_wait: {duration: 4m}}}, drain: {announce: 0s, deadline: 5s}}`)
			m.tell("kill-appliance")
			m.expect(time.Minute, "serving service=mine")
			m.expect(time.Minute, "the appliance is ready")
			live := m.echo()
			m.say(live, 10*time.Second, "before the update")

			m.must(time.Minute, "update install /dev/vdb --reboot")
			if n, err := live.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the connection that the update drains ends with %d bytes and %v, want FIN", n, err)
			}
			_ = live.Close() // our FIN; without it the box would wait, and reset
			m.expect(time.Minute, "drained clean=1 reset=0 unacked=0")
			m.expect(bootTime, "release=\"v2 ")
			m.expect(bootTime, "connections of the last run are still in TIME-WAIT")
			m.expect(bootTime, "serving service=mine")
			m.expect(bootTime, "the appliance is ready")
			m.say(m.echo(), 10*time.Second, "after the update")
			m.expect(time.Minute, "slot is good slot=B")
			s := m.story()
			if s.Slot != "B" || s.Trial || len(s.Updates) != 1 || s.Updates[0].Result != boot.Good {
				t.Errorf("after the update: slot %s, trial %v, updates %+v", s.Slot, s.Trial, s.Updates)
			}

			m.must(time.Minute, "update install /dev/vdc --reboot")
			m.expect(2*bootTime, "THE UPDATE WAS ROLLED BACK") // the loader has tried three times
			m.expect(bootTime, "the appliance is ready")
			s = m.story()
			if s.Slot != "B" || s.Release.Build != 2 {
				t.Errorf("after the rollback slot %s runs %s", s.Slot, s.Release)
			}
			if u := s.Updates[len(s.Updates)-1]; u.Result != boot.RolledBack || !strings.Contains(u.Why, "each of 3 tries ended before the data partition was there") {
				t.Errorf("the update is %s: %s", u.Result, u.Why)
			}
		})
	}
}

// wantSlotA is how every failed update must end: slot A serves, and the story is told.
func (m *machine) wantSlotA(within time.Duration, why string) {
	m.t.Helper()
	m.expect(within, "THE UPDATE WAS ROLLED BACK")
	m.expect(bootTime, "the appliance is ready")
	s := m.story()
	if s.Slot != "A" || s.Release.Build != 1 || s.Trial {
		m.t.Errorf("slot %s runs %s, on trial: %v", s.Slot, s.Release, s.Trial)
	}
	u := s.Updates[len(s.Updates)-1]
	if u.Result != boot.RolledBack || !strings.Contains(u.Why, why) {
		m.t.Errorf("the update is %s: %s; want ...%s...", u.Result, u.Why, why)
	}
}

// What a bundle may do wrong, each with what the box must say.
func TestBadBundlesAreRefusedByTheBox(t *testing.T) {
	long(t)
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			other := image.AMD64
			if arch == image.AMD64 {
				other = image.ARM64
			}
			cases := []struct {
				v    variant
				want string
			}{
				{variant{build: 2, stranger: true}, "the signature is not by any of this box's update keys"},
				{variant{build: 2, length: 1 << 20}, "the bundle is cut off"},
				{variant{build: 2, arch: string(other)}, fmt.Sprintf("the bundle is for %s and this box is %s", other, arch)},
				{variant{build: 7, minFrom: 5}, "the bundle wants build 5 or newer on the box"},
			}
			var bundles []string
			for _, c := range cases {
				bundles = append(bundles, f.bundle(t, c.v))
			}
			m := f.boot(t, bundles...)
			m.ready("v1")
			for i, c := range cases {
				out, status := m.do(time.Minute, fmt.Sprintf("update install /dev/vd%c", 'b'+i))
				if status != "1" || !strings.Contains(out, c.want) {
					t.Errorf("exit status %s and %q; want 1 and ...%s...", status, out, c.want)
				}
			}
			if s := m.story(); s.Slots[1].State != "empty" || len(s.Updates) != 0 {
				t.Errorf("slots are %+v, updates %+v", s.Slots, s.Updates)
			}
		})
	}
}

// What a signed bundle may do wrong once it boots: the box comes back without hands.
func TestABoxComesBackFromWhateverFails(t *testing.T) {
	long(t)
	for _, arch := range image.Arches() {
		for name, tt := range map[string]struct {
			v      variant
			within time.Duration
			why    string
		}{
			// The firmware starts the loader again: facts of boot options.
			"kernel that cannot be loaded": {variant{build: 2, kernel: noKernel()}, 3 * bootTime, "each of 3 tries ended before the data partition"},
			"init that ends":               {variant{build: 2, sabotage: "exit"}, 4 * bootTime, "each of 3 tries ended before the data partition"}, // the kernel panics
			"initramfs cut off":            {variant{build: 2, cut: 3 << 20}, 4 * bootTime, "each of 3 tries ended before the data partition"},
			"init that hangs":              {variant{build: 2, sabotage: "hang"}, 6 * bootTime, "the hardware watchdog has reset the box"},
			"appliance never ready":        {variant{build: 2, sabotage: "never-ready"}, 6 * bootTime, "not good after 40s: the appliance is not ready"},
		} {
			t.Run(string(arch)+"/"+name, func(t *testing.T) {
				f := needFactory(t, arch)
				m := f.boot(t, f.bundle(t, tt.v))
				m.ready("v1")
				m.must(time.Minute, "update install /dev/vdb --reboot")
				m.wantSlotA(tt.within, tt.why)
			})
		}
	}
}

// An appliance or a process 1 that stands still leads to a reboot within a minute, and the box says why.
func TestWhatStandsStillIsRebooted(t *testing.T) {
	long(t)
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			m := f.boot(t)
			m.ready("v1")
			for _, tt := range []struct{ how, why string }{
				{"stop-appliance", "reboot: the appliance gave no sign of life for 20s"},
				{"hang-init", "the hardware watchdog has reset the box"},
				{"panic-init", "process 1 panicked: asked for"},
				{"crash-kernel", "it ended without a word"},
			} {
				begun := time.Now()
				m.tell(tt.how)
				m.expect(2*time.Minute, "BdsDxe: starting|EFI stub|lastack starts")
				if took := time.Since(begun); took > time.Minute {
					t.Errorf("%s: the reboot came after %v, want a minute at most", tt.how, took)
				}
				m.expect(bootTime, "the boot before ended: [^\n]*"+regexp.QuoteMeta(tt.why))
				m.expect(bootTime, "the appliance is ready")
			}
			s := m.story()
			if len(s.Boots) != 5 {
				t.Errorf("%d boots are known, want 5", len(s.Boots))
			}
		})
	}
}

// An appliance that is killed is started again at once, without a reboot.
func TestAKilledApplianceIsStartedAgain(t *testing.T) {
	long(t)
	f := needFactory(t, image.AMD64)
	m := f.boot(t)
	m.ready("v1")
	m.tell("kill-appliance")
	m.expect(20*time.Second, "the appliance ended with signal killed")
	m.expect(20*time.Second, "the appliance is ready")
	if s := m.story(); len(s.Boots) != 1 || s.Appliance == 0 {
		t.Errorf("%d boots, appliance %d", len(s.Boots), s.Appliance)
	}
}

// A reboot that is planned takes the connections along.
func TestConnectionsOutliveAReboot(t *testing.T) {
	long(t)
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			m := f.boot(t)
			m.ready("v1")
			c := m.echo()
			m.say(c, 10*time.Second, "before the reboot")
			m.must(time.Minute, "reboot")
			m.expect(time.Minute, "connections are saved")
			m.ready("v1")
			m.say(c, time.Minute, "after the reboot")
		})
	}
}

// The operator goes back, to what was good before.
func TestTheOperatorGoesBack(t *testing.T) {
	long(t)
	f := needFactory(t, image.AMD64)
	m := f.boot(t, f.bundle(t, variant{build: 2}))
	m.ready("v1")
	m.must(time.Minute, "update install /dev/vdb --reboot")
	m.ready("v2")
	m.expect(time.Minute, "slot is good slot=B")
	m.must(time.Minute, "update rollback --reboot")
	m.ready("v1")
	s := m.story()
	if s.Slot != "A" || s.Updates[0].Result != boot.Returned {
		t.Errorf("slot %s runs, the update is %+v", s.Slot, s.Updates)
	}
	m.must(time.Minute, "reboot")
	m.ready("v1")
}

// The power is cut while a slot is written, at moments from its begin to past its end: the box boots each time, and the
// next update works. A boot of arm64 takes twice as long, so there are fewer.
func TestThePowerIsCutWhileASlotIsWritten(t *testing.T) {
	long(t)
	for arch, cuts := range map[image.Arch]int{image.AMD64: 20, image.ARM64: 5} {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			m := f.boot(t, f.bundle(t, variant{build: 2}))
			for n := range cuts {
				m.expect(bootTime, "the appliance is ready")
				m.tell("update install /dev/vdb")
				m.expect(bootTime, "update begins")
				wait := time.Duration(n) * 3 * time.Second / time.Duration(cuts) // a write takes about two seconds: all of it is hit
				time.Sleep(wait)
				m.powerCut()
				m.powerOn()
			}
			m.expect(bootTime, "the appliance is ready")
			s := m.story()
			t.Logf("after %d cuts slot %s runs %s, slots %+v", cuts, s.Slot, s.Release, s.Slots)
			if len(s.Problems) > 0 {
				t.Errorf("problems: %v", s.Problems)
			}
			if s.Trial {
				m.expect(time.Minute, "slot is good slot=")
			}
			m.must(time.Minute, "update install --downgrade /dev/vdb --reboot")
			m.ready("v2")
			m.expect(time.Minute, "slot is good slot=")
		})
	}
}

// What an operator has put on the EFI partition is taken at the first boot.
func TestSettingsAreTakenFromTheEFIPartition(t *testing.T) {
	long(t)
	f := needFactory(t, image.AMD64)
	m := f.prepare(t)
	d, err := os.OpenFile(m.config.Disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := `{interfaces: {eth0: {dhcp: true}}, services: {mine: {type: echo, listen: "eth0:7"}}}` + "\n"
	if err := errors.Join(disk.Add(d, []disk.File{{Path: "/lastack.yaml", Data: []byte(text)}}), d.Close()); err != nil {
		t.Fatal(err)
	}
	m.powerOn()
	t.Cleanup(m.powerCut)
	m.expect(bootTime, "lastack.yaml is taken")
	m.expect(bootTime, "serving service=mine")
	m.expect(bootTime, "the appliance is ready")
	m.say(m.echo(), 10*time.Second, "hello")
	m.must(time.Minute, "reboot --drain")
	m.expect(bootTime, "lastack.yaml was taken before")
	m.expect(bootTime, "serving service=mine")
}

// The power button, or a host that shuts its machine down, ends connections in order.
func TestThePowerButtonSwitchesTheBoxOff(t *testing.T) {
	long(t)
	for _, arch := range image.Arches() {
		t.Run(string(arch), func(t *testing.T) {
			f := needFactory(t, arch)
			m := f.boot(t)
			m.ready("v1")
			m.tell("\x01csystem_powerdown") // QEMU's monitor is behind Ctrl-A c
			m.expect(time.Minute, "asked by the power button")
			m.expect(time.Minute, "drained clean=0")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := m.Wait(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// The data partition's super block is lost: e2fsck makes it again from a copy, and what was known is there.
func TestDamagedDataIsRepaired(t *testing.T) {
	long(t)
	f := needFactory(t, image.AMD64)
	m := f.boot(t)
	m.ready("v1")
	m.must(time.Minute, "poweroff")
	m.expect(time.Minute, "Power down|power down")
	m.powerCut()
	damageData(t, m.config.Disk)
	m.powerOn()
	m.expect(bootTime, "DATA WAS DAMAGED")
	m.expect(bootTime, "the appliance is ready")
	s := m.story()
	if len(s.Boots) != 2 || !s.Data {
		t.Errorf("boots are %+v, data is there: %v", s.Boots, s.Data)
	}
	m.must(time.Minute, "factory-reset --yes")
	m.expect(bootTime, "FACTORY RESET")
	m.expect(bootTime, "the appliance is ready")
	if s := m.story(); len(s.Boots) != 1 || len(s.Problems) != 0 {
		t.Errorf("after a factory reset: boots %+v, problems %v", s.Boots, s.Problems)
	}
}

// damageData makes the first super block of the second partition unreadable.
func damageData(t *testing.T, path string) {
	t.Helper()
	d, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var first [8]byte
	if _, err := d.ReadAt(first[:], 1024+128+32); err != nil { // the second entry of the partition table
		t.Fatal(err)
	}
	at := int64(first[0]) | int64(first[1])<<8 | int64(first[2])<<16 | int64(first[3])<<24
	if _, err := d.WriteAt(bytes.Repeat([]byte{0xaa}, 1024), at*512+1024); err != nil {
		t.Fatal(err)
	}
}

// The appliance may do little.
func TestTheApplianceIsConfined(t *testing.T) {
	long(t)
	f := needFactory(t, image.AMD64)
	m := f.boot(t)
	m.ready("v1")
	out := m.must(time.Minute, "show /proc/APPLIANCE/status")
	for _, want := range []string{"Uid:\t900\t900\t900\t900", "Gid:\t900\t900\t900\t900", "NoNewPrivs:\t1", "CapEff:\t0000000002003000", "CapPrm:\t0000000002003000"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	// Landlock: what root may read, it may not. DAC alone would let it.
	if out, _ := m.do(time.Minute, "confined check -c /data/init/story.json"); !strings.Contains(out, "permission denied") {
		t.Errorf("confined, root reads the story of the box: %s", out)
	}
	if out, _ := m.do(time.Minute, "confined check -c /etc/lastack/default.yaml"); strings.Contains(out, "permission denied") {
		t.Errorf("confined, it can't read the built-in configuration: %s", out)
	}
}
