package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/slot"
)

// IsBox tells whether this process is process 1 of a box, and not of a container: the kernel
// starts it by the name of the file in the initramfs.
func IsBox(pid int, args []string) bool { return pid == 1 && len(args) > 0 && args[0] == "/init" }

// Main runs the box. It doesn't return.
func Main(o Options) {
	b := newBox("/", os.Stderr, o)
	defer b.catch()
	b.boot()
	b.end(b.serve())
}

// boot makes the machine usable. Whatever fails is said, and the boot goes on:
// a box that can be asked what is wrong is better than one that stands still.
func (b *Box) boot() {
	b.mountKernel()
	b.arm()
	b.reopenConsole()
	b.command, _ = readLine(b.path("proc/cmdline"))
	b.readRelease()
	b.log.Info("lastack starts", "release", b.release.String(), "arch", b.release.Arch, "kernel", kernelRelease(), "since_boot", sinceBoot().Round(time.Millisecond))
	b.procs = reap(b.start)
	b.loadModules()
	switch {
	case b.dog == nil:
		b.problem("watchdog", "there is no hardware watchdog: nothing resets the box if it hangs")
	case b.dog.name == softwareWatchdog:
		b.problem("watchdog", "there is no hardware watchdog: the kernel's own resets the box if process 1 hangs, but nothing does if the kernel does")
	}
	b.mountDisk()
	b.setClock()
	b.seed()
	b.setHostname()
	b.warn("log", b.lines.keep(b.path("data/log")))
	b.beginStory()
	if b.o.Prepare != nil {
		b.warn("prepare", b.o.Prepare())
	}
	b.firstConfig()
	b.provide()
	b.findConsole()
	b.watchButtons()
	b.limits()
	b.forgetModules()
}

// mountKernel mounts what the kernel offers.
func (b *Box) mountKernel() {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fs, at string
		flags  uintptr
		data   string
	}{
		{"devtmpfs", "dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"proc", "proc", strict, ""},
		{"sysfs", "sys", strict, ""},
		{"tmpfs", "run", strict, "mode=0755,size=32m"},
		{"tmpfs", "tmp", strict, "mode=1777,size=16m"},
	} {
		b.warn("mount", b.mount(m.fs, b.path(m.at), m.fs, m.flags, m.data))
	}
	// The appliance makes its sockets here; the sticky bit keeps it from those of others.
	b.warn("mount", errors.Join(b.chown(b.path("run"), 0, User), os.Chmod(b.path("run"), os.ModeSticky|0o775)))
}

// mount makes the directory and mounts.
func (b *Box) mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := b.mountFunc(source, target, fstype, flags, data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s as %s: %w", source, target, fstype, err)
	}
	return nil
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

// reopenConsole takes the console that the command line names: what the kernel gave us may be none.
func (b *Box) reopenConsole() {
	f, err := os.OpenFile(b.path("dev/console"), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	old := b.lines
	b.console, b.lines = f, newLines(f)
	b.lines.early = old.early
	old.close()
	b.log = b.o.NewLog(b.lines)
}

func (b *Box) readRelease() {
	text, err := os.ReadFile(b.path(bundle.ReleaseFile))
	if err == nil {
		err = json.Unmarshal(text, &b.release)
	}
	b.warn("release", err)
	if b.release.Arch == "" {
		b.release.Arch = runtime.GOARCH
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// diskPatience is how long a disk may take to appear: USB takes seconds.
const diskPatience = 15 * time.Second

// mountDisk finds our two partitions and mounts them.
func (b *Box) mountDisk() {
	b.warn("efi", b.mountEFI())
	esp, data, err := b.waitForDisk()
	if err != nil {
		b.problem("disk", err.Error()+": nothing can be kept and nothing updated")
		b.openData(partition{}, false)
		b.makeDirs()
		return
	}
	b.espDevice = esp.Device
	if err := b.mount(esp.Device, b.path("esp"), "vfat", espFlags|unix.MS_RDONLY, "errors=continue"); err != nil {
		b.problem("esp", err.Error()+": the box cannot be updated")
	} else {
		b.esp = slot.At(b.path("esp"))
		b.recoverESP()
	}
	b.openData(data, b.resetAsked())
	b.makeDirs()
	b.chainBoot(esp)
}

// The ESP is FAT, which has no journal. DIRSYNC brings a change of a directory to the disk in its order: the
// clusters of a new directory before its name, or a power cut leaves a name that leads to anything. It counts at the
// first mount only. With errors=continue what a cut has damaged all the same can be removed: the kernel's default,
// read-only, would keep it for ever.
const espFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_DIRSYNC

// recoverESP removes what an update has left that a power cut has ended.
func (b *Box) recoverESP() {
	if !b.esp.Interrupted() {
		return
	}
	running, _ := slot.FromCommandLine(b.command)
	err := b.writeESP(func() error { return b.esp.Recover(running) })
	if b.warn("esp", wrap("remove what is left of an update", err)); err == nil {
		b.log.Warn("an update was cut off while it was written: what was there of it is removed")
	}
}

func (b *Box) mountEFI() error {
	dir := b.path("sys/firmware/efi/efivars")
	if _, err := os.Stat(dir); err != nil {
		return nil // another firmware
	}
	return b.mount("efivarfs", dir, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

func (b *Box) waitForDisk() (esp, data partition, err error) {
	prefer := nvram{b.path("sys/firmware/efi/efivars")}.loaderPart()
	for end := time.Now().Add(diskPatience); ; {
		if esp, data, err = findDisk(b.root, prefer); err == nil || time.Now().After(end) {
			return esp, data, err
		}
		b.arm() // which feeds it
		time.Sleep(200 * time.Millisecond)
		b.coldplug()
	}
}

// resetMarker on the ESP asks for a factory reset at the next boot.
const resetMarker = "lastack.reset"

// resetAsked tells whether this boot is to forget everything, by the boot menu
// or by the marker, which goes before the data does: a reset that fails isn't tried for ever.
func (b *Box) resetAsked() bool {
	if value, ok := option(b.command, "lastack.reset"); ok && value == "1" {
		return true
	}
	if b.esp == nil {
		return false
	}
	marker := b.path(filepath.Join("esp", resetMarker))
	if _, err := os.Stat(marker); err != nil {
		return false
	}
	err := b.writeESP(func() error { return os.Remove(marker) })
	b.warn("reset", err)
	return err == nil
}

// writeESP makes the ESP writable for as long as f takes. Otherwise it is mounted
// read-only, so that a power cut finds it in order.
func (b *Box) writeESP(f func() error) (err error) {
	b.espMu.Lock()
	defer b.espMu.Unlock()
	at := b.path("esp")
	if err := b.mountFunc(b.espDevice, at, "vfat", espFlags|unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("make the EFI partition writable: %w", err)
	}
	defer func() {
		again := b.mountFunc(b.espDevice, at, "vfat", espFlags|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		err = errors.Join(err, wrap("make the EFI partition read-only again", again))
	}()
	return f()
}

// beginStory looks who we are, and what became of the boot before and the last update.
func (b *Box) beginStory() {
	b.stable, b.trialTime = b.span("lastack.stable", DefaultStable), b.span("lastack.trial", DefaultTrial)
	story, err := loadStory(b.path(storyPath))
	b.warn("story", err)
	own, known := slot.FromCommandLine(b.command)
	if known {
		b.slot = own
	}
	trial, try := b.tried(&story)
	story.begin(BootRecord{Time: time.Now().UTC().Round(time.Second), Slot: own, Release: b.release, Try: try, Good: !trial}, b.dog != nil && b.dog.reset)
	back := false
	if known && b.esp != nil {
		entries, err := b.esp.Entries()
		b.warn("slot", err)
		back = err == nil && story.judge(own, entries)
	}
	b.mu.Lock()
	b.story, b.trial, b.try = story, trial, try
	b.saveStoryLocked()
	b.mu.Unlock()
	b.tell(story, trial, back)
}

// tried tells whether the running slot is on trial, and which try this is.
func (b *Box) tried(story *Story) (trial bool, try int) {
	if b.esp == nil { // perhaps because this kernel lacks what it takes: then it must not be kept
		u := story.update()
		return u != nil && u.Slot == b.slot && (u.Result == Installed || u.Result == OnTrial), 0
	}
	if !b.slot.Valid() {
		return false, 0
	}
	e, ok, err := b.esp.Entry(b.slot)
	b.warn("slot", err)
	return ok && e.Counted, e.Done
}

// tell says at the start what the operator may have missed.
func (b *Box) tell(story Story, trial, back bool) {
	if last := story.before(); last != nil {
		b.log.Info("the boot before ended: "+last.End, "boot", last.Number, "slot", last.Slot)
	}
	if trial {
		b.log.Info("this slot is on trial", "slot", b.slot, "try", story.now().Try, "stable", b.stable)
	}
	if back {
		u := story.update()
		b.log.Error("THE UPDATE WAS ROLLED BACK", "to", u.To.String(), "running", b.release.String(), "why", u.Why)
	}
}

// span is a duration on the kernel's command line.
func (b *Box) span(name string, otherwise time.Duration) time.Duration {
	value, ok := option(b.command, name)
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		b.log.Warn("not understood on the kernel's command line", "option", name+"="+value)
		return otherwise
	}
	return d
}

// limits lets the appliance have as many files as it needs.
func (b *Box) limits() {
	const files = 1 << 20
	b.warn("limits", wrap("raise the number of files", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})))
	b.warn("limits", wrap("no core files", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})))
}

// serve runs the appliance and watches, until somebody asks for the end. What it
// listens on stays open: the appliance speaks until it has ended.
func (b *Box) serve() Order {
	conn, err := listenNotices(b.path(noticePath), b.chown)
	if err != nil {
		b.problem("notify", err.Error())
	} else {
		b.start(func() { readNotices(conn, func(n notice) { b.notices <- n }) })
	}
	if b.control, err = b.listenControl(); err != nil {
		b.problem("control", err.Error())
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // ctrl-alt-del is SIGINT: reboot(2)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	clock := time.NewTicker(beat)
	defer clock.Stop()
	b.tick(time.Now())
	for {
		select {
		case now := <-clock.C:
			b.tick(now)
		case n := <-b.notices:
			b.noticed(n)
		case a := <-b.answers:
			b.answered(a)
		case status := <-b.appliance.exited:
			b.exitedWith(status)
		case <-b.login.exited:
			b.login.exited = nil
		case s := <-signals:
			b.order(Order{Kind: Reboot, Why: "asked by " + strings.ToLower(s.String())})
		case o := <-b.orders:
			return o
		}
	}
}
