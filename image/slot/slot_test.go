package slot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"aead.dev/minisign"

	"github.com/lastack/lastack/image/bundle"
)

// box is an EFI system partition as it leaves the factory: slot A, good.
type box struct {
	*ESP
	dir     string
	key     minisign.PublicKey
	private minisign.PrivateKey
}

var running = bundle.Release{Version: "v1.0", Build: 10, Arch: "amd64", Kernel: "6.1"}

const options = "console=ttyS0 quiet panic=5 lastack.slot=A"

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{dir: t.TempDir()}
	b.ESP = At(b.dir)
	var err error
	if b.key, b.private, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	b.put(t, "A/vmlinuz", "kernel 10")
	b.put(t, "A/initrd", "initrd 10")
	b.entry(t, Entry{Slot: A, Release: running, Title: "Lastack", SortKey: "lastack", Sequence: 1, Options: options})
	return b
}

func (b *box) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *box) entry(t *testing.T, e Entry) {
	t.Helper()
	b.put(t, "loader/entries/"+e.Name(), string(e.Text()))
}

// file makes a bundle of the release with the given build.
func (b *box) file(t *testing.T, m bundle.Manifest) []byte {
	t.Helper()
	dir := t.TempDir()
	kernel, initrd := filepath.Join(dir, "k"), filepath.Join(dir, "i")
	for path, name := range map[string]string{kernel: "kernel", initrd: "initrd"} {
		if err := os.WriteFile(path, bytes.Repeat(fmt.Appendf(nil, "%s %d ", name, m.Build), 20_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := bundle.Write(&out, m, kernel, initrd, b.private); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (b *box) install(data []byte, u Update) (Slot, error) {
	in, err := bundle.Read(bytes.NewReader(data), []minisign.PublicKey{b.key})
	if err != nil {
		return "", err
	}
	return b.Install(in, u)
}

func release(build uint64) bundle.Manifest {
	return bundle.Manifest{Release: bundle.Release{Version: fmt.Sprint("v", build), Build: build, Arch: "amd64", Kernel: "6.1"}}
}

// names are the entry files.
func (b *box) names(t *testing.T) string {
	t.Helper()
	files, err := os.ReadDir(b.entryDir())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		all = append(all, f.Name())
	}
	return strings.Join(all, " ")
}

// snapshot is every file of the partition.
func (b *box) snapshot(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/"+staging+"/") {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, b.dir)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// mustBoot is what a box may never lose: there's an entry that the loader will boot
// to a good end, and whatever has an entry with tries left has files that were
// signed together.
func (b *box) mustBoot(t *testing.T, signed map[string]string) {
	t.Helper()
	all, err := b.Entries()
	if err != nil {
		t.Fatal(err)
	}
	good := false
	for _, e := range all {
		if e.Bad() {
			continue
		}
		good = good || !e.Counted
		k, i := b.hash(t, e.Slot, bundle.Kernel), b.hash(t, e.Slot, bundle.Initrd)
		if other, ok := signed[k]; !ok || other != i {
			t.Errorf("entry %s is of a slot whose files do not belong together", e.Name())
		}
	}
	if !good {
		t.Errorf("no good entry is left: %s", b.names(t))
	}
}

func (b *box) hash(t *testing.T, s Slot, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.slotDir(s), name))
	if err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// pairs are the kernels with their initramfs that were signed, and the factory's.
func (b *box) pairs(t *testing.T, files ...[]byte) map[string]string {
	t.Helper()
	all := map[string]string{b.hash(t, A, bundle.Kernel): b.hash(t, A, bundle.Initrd)}
	for _, data := range files {
		in, err := bundle.Read(bytes.NewReader(data), []minisign.PublicKey{b.key})
		if err != nil {
			t.Fatal(err)
		}
		all[in.Manifest.Files[0].SHA256] = in.Manifest.Files[1].SHA256
	}
	return all
}

func TestAnUpdateGoesToTheOtherSlotAndIsTried(t *testing.T) {
	b := newBox(t)
	first, second := b.file(t, release(11)), b.file(t, release(12))
	var last int64
	u := Update{Running: running, Slot: A, Progress: func(_ string, n, all int64) { last = all - n }}
	to, err := b.install(first, u)
	if err != nil || to != B || last != 0 {
		t.Fatalf("got slot %q, %v, %d bytes left", to, err, last)
	}
	if got, want := b.names(t), "a.conf b+3.conf"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
	e, _, err := b.Entry(B)
	if err != nil || e.Sequence != 2 || e.Release.Build != 11 || e.SortKey != "lastack" || e.State() != "new: not booted yet" {
		t.Errorf("entry of B is %+v, %s, %v", e, e.State(), err)
	}
	if want := "lastack.slot=B console=ttyS0 quiet panic=5"; e.Options != want {
		t.Errorf("options are %q, want %q", e.Options, want)
	}
	b.mustBoot(t, b.pairs(t, first))

	// The loader tries, the box is good, and the next one goes to slot A.
	if err := os.Rename(b.entryPath(e), filepath.Join(b.entryDir(), "b+2-1.conf")); err != nil {
		t.Fatal(err)
	}
	if news, err := b.Bless(B); !news || err != nil {
		t.Errorf("blessed: %v, %v", news, err)
	}
	if news, err := b.Bless(B); news || err != nil {
		t.Errorf("blessed once more: %v, %v", news, err)
	}
	if to, err := b.install(second, Update{Running: release(11).Release, Slot: B}); err != nil || to != A {
		t.Fatalf("got slot %q, %v", to, err)
	}
	if got, want := b.names(t), "a+3.conf b.conf"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
	b.mustBoot(t, b.pairs(t, first, second))
}

// What is refused before it is whole leaves everything as it was, an older release
// in the other slot included.
func TestARefusedUpdateChangesNothing(t *testing.T) {
	b := newBox(t)
	good := b.file(t, release(12))
	if _, err := b.install(b.file(t, release(11)), Update{Running: running, Slot: A}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bless(B); err != nil {
		t.Fatal(err)
	}
	_, stranger, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	own := b.private
	b.private = stranger
	forged := b.file(t, release(12))
	b.private = own
	otherArch := release(12)
	otherArch.Arch = "arm64"
	minFrom := release(12)
	minFrom.MinFrom = 11
	damaged := bytes.Clone(good)
	damaged[len(damaged)/2] ^= 1

	for name, tt := range map[string]struct {
		data []byte
		u    Update
		want string
	}{
		"bad signature": {forged, Update{Running: running, Slot: A}, bundle.ErrSignature.Error()},
		"architecture":  {b.file(t, otherArch), Update{Running: running, Slot: A}, "the bundle is for arm64 and this box is amd64"},
		"too new":       {b.file(t, minFrom), Update{Running: running, Slot: A}, "the bundle wants build 11 or newer on the box, and this is v1.0 (build 10)"},
		"older":         {b.file(t, release(9)), Update{Running: running, Slot: A}, "the bundle is older, v9 (build 9), than what runs"},
		"slot unknown":  {good, Update{Running: running}, "not known which slot runs"},
		"cut off":       {good[:len(good)*2/3], Update{Running: running, Slot: A}, "the bundle is cut off"},
		"cut in kernel": {good[:10_000], Update{Running: running, Slot: A}, "the bundle is cut off"},
		"damaged":       {damaged, Update{Running: running, Slot: A}, "is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			before := b.snapshot(t)
			_, err := b.install(tt.data, tt.u)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ...%s...", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than one sentence", err)
			}
			after := b.snapshot(t)
			for name, text := range before {
				if after[name] != text {
					t.Errorf("%s has changed", name)
				}
			}
			if len(after) != len(before) {
				t.Errorf("got %d files, want %d", len(after), len(before))
			}
		})
	}
	if _, err := b.install(b.file(t, release(9)), Update{Running: running, Slot: A, Downgrade: true}); err != nil {
		t.Errorf("a downgrade that is meant: %v", err)
	}
}

func TestASlotOnTrialIsNotUpdatedFrom(t *testing.T) {
	b := newBox(t)
	if err := os.Rename(filepath.Join(b.entryDir(), "a.conf"), filepath.Join(b.entryDir(), "a+1-2.conf")); err != nil {
		t.Fatal(err)
	}
	_, err := b.install(b.file(t, release(12)), Update{Running: running, Slot: A})
	if err == nil || !strings.Contains(err.Error(), "slot A, which runs, is on trial: 2 of 3 tries used") {
		t.Errorf("got %v", err)
	}
}

// The power is cut before each change there is, and the box boots; the next
// update works.
func TestThePowerIsCutAtEveryStepOfAnUpdate(t *testing.T) {
	errCut := errors.New("power cut")
	var steps []string
	b := newBox(t)
	b.step = func(what string) error { steps = append(steps, what); return nil }
	if _, err := b.install(b.file(t, release(11)), Update{Running: running, Slot: A}); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 8 {
		t.Fatalf("an update has the steps %q, want at least 8", steps)
	}
	for _, occupied := range []bool{false, true} {
		for at := range len(steps) + 1 {
			b := newBox(t)
			old, data, again := b.file(t, release(10)), b.file(t, release(11)), b.file(t, release(12))
			pairs := b.pairs(t, old, data, again)
			if occupied { // by a good release, which an update replaces
				if _, err := b.install(old, Update{Running: running, Slot: A}); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Bless(B); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			b.step = func(string) error {
				if n++; n > at {
					return errCut
				}
				return nil
			}
			_, err := b.install(data, Update{Running: running, Slot: A})
			if !occupied && (err == nil) != (at == len(steps)) {
				t.Errorf("cut at step %d of %d: %v", at, len(steps), err)
			}
			b.mustBoot(t, pairs)
			b.ESP = At(b.dir)
			if _, err := b.install(again, Update{Running: running, Slot: A}); err != nil {
				t.Errorf("after a cut at step %d the next update fails: %v", at, err)
			}
			b.mustBoot(t, pairs)
		}
	}
}

// What a power cut has left of an update is removed before anything else is written: FAT may have other clusters for it
// than its size says, or the same under two names. The slot that was to get it goes too if it has no entry by then.
func TestWhatAPowerCutHasLeftIsRemovedFirst(t *testing.T) {
	for _, tt := range []struct {
		cut  string
		slot bool // the good release in the other slot stays
	}{{"write " + bundle.Initrd, true}, {"compare " + bundle.Kernel, true}, {"exchange " + bundle.Kernel, false}, {"exchange " + bundle.Initrd, false}, {"unmark the write", false}} {
		t.Run(tt.cut, func(t *testing.T) {
			b := newBox(t)
			if _, err := b.install(b.file(t, release(10)), Update{Running: running, Slot: A}); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Bless(B); err != nil {
				t.Fatal(err)
			}
			b.step = func(what string) error {
				if what == tt.cut {
					return errors.New("power cut")
				}
				return nil
			}
			if _, err := b.install(b.file(t, release(11)), Update{Running: running, Slot: A}); err == nil {
				t.Fatal("it was not cut")
			}
			var removed []string
			b.step = func(what string) error { removed = append(removed, what); return nil }
			if !b.Interrupted() {
				t.Error("nothing tells of the cut")
			}
			if err := b.Recover(A); err != nil {
				t.Fatal(err)
			}
			if b.Interrupted() {
				t.Error("it is told of for ever")
			}
			for dir, want := range map[string]bool{staging: false, string(A): true, string(B): tt.slot} {
				for _, name := range []string{bundle.Kernel, bundle.Initrd} {
					if _, err := os.Stat(filepath.Join(b.dir, dir, name)); (err == nil) != want {
						t.Errorf("%s/%s is there: %v, want %v", dir, name, err == nil, want)
					}
				}
			}
			if n := len(removed); n == 0 {
				t.Error("nothing was removed")
			}
			removed = nil
			if err := b.Recover(A); err != nil || len(removed) > 0 {
				t.Errorf("once more: %v, %q", err, removed)
			}
		})
	}
}

// What an update has left that came to its end is written over, which leaves no clusters lost if the power goes.
func TestTheNextUpdateWritesOverTheOldFiles(t *testing.T) {
	b := newBox(t)
	inode := func() uint64 {
		t.Helper()
		info, err := os.Stat(filepath.Join(b.dir, staging, bundle.Initrd))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	for build := range uint64(2) { // the second has something to exchange
		if _, err := b.install(b.file(t, release(10+build)), Update{Running: running, Slot: A}); err != nil {
			t.Fatal(err)
		}
	}
	before, after := inode(), uint64(0)
	b.step = func(what string) error {
		if what == "compare "+bundle.Kernel {
			after = inode()
		}
		return nil
	}
	if _, err := b.install(b.file(t, release(12)), Update{Running: running, Slot: A}); err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Error("they were made anew")
	}
}

// A bundle that ends at a random byte, as when power or line are cut while it
// comes in.
func TestAnUpdateCutAtRandomBytes(t *testing.T) {
	b := newBox(t)
	whole := b.file(t, release(11))
	pairs := b.pairs(t, whole)
	for range 40 {
		if _, err := b.install(whole[:rand.IntN(len(whole)-2048)], Update{Running: running, Slot: A}); err == nil {
			t.Error("a cut bundle is taken")
		}
		b.mustBoot(t, pairs)
		if got := b.names(t); got != "a.conf" {
			t.Errorf("entries are %s, want a.conf alone", got)
		}
	}
	if _, err := b.install(whole, Update{Running: running, Slot: A}); err != nil {
		t.Error(err)
	}
	b.mustBoot(t, pairs)
}

func TestAnUpdateClearsAnOldBadMark(t *testing.T) {
	b := newBox(t)
	b.entry(t, Entry{Slot: B, Counted: true, Done: 3, Sequence: 7})
	if _, err := b.install(b.file(t, release(11)), Update{Running: running, Slot: A}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.names(t), "a.conf b+3.conf"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
	if e, _, _ := b.Entry(B); e.Sequence != 2 {
		t.Errorf("sequence is %d, want 2: above the slot that runs", e.Sequence)
	}
}

func TestRollbackPrefersTheOtherSlotIfItIsGood(t *testing.T) {
	b := newBox(t)
	if err := b.Prefer(B); err == nil || !strings.Contains(err.Error(), "slot B is empty") {
		t.Errorf("an empty slot: %v", err)
	}
	b.entry(t, Entry{Slot: B, Counted: true, Done: 3, Sequence: 7})
	if err := b.Prefer(B); err == nil || !strings.Contains(err.Error(), "bad: tried 3 times") {
		t.Errorf("a bad slot: %v", err)
	}
	if err := b.removeEntries(B); err != nil {
		t.Fatal(err)
	}
	b.entry(t, Entry{Slot: B, Sequence: 7, Options: "x lastack.slot=B"})
	if err := b.Prefer(A); err != nil {
		t.Fatal(err)
	}
	e, _, err := b.Entry(A)
	if err != nil || e.Sequence != 8 || e.Release != running || e.Options != options {
		t.Errorf("entry of A is %+v, %v", e, err)
	}
}

func TestASlotOnTrialCanBeGivenUp(t *testing.T) {
	b := newBox(t)
	if news, err := b.GiveUp(A); news || err != nil {
		t.Errorf("a good slot is given up: %v, %v", news, err)
	}
	b.entry(t, Entry{Slot: B, Counted: true, Left: 2, Done: 1})
	if news, err := b.GiveUp(B); !news || err != nil {
		t.Errorf("got %v, %v", news, err)
	}
	if got, want := b.names(t), "a.conf b+0-1.conf"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
}

func TestANewSlotThatDoesNotFitIsRefusedBeforeAByteIsWritten(t *testing.T) {
	b := newBox(t)
	m := release(11)
	m.Files = []bundle.File{{Name: bundle.Kernel, Size: 1 << 50}, {Name: bundle.Initrd, Size: 1}}
	if err := b.room(m); err == nil || !strings.Contains(err.Error(), "MB free and the update needs") {
		t.Errorf("got %v", err)
	}
}

func TestNamesOfEntries(t *testing.T) {
	for name, want := range map[string]string{
		"a.conf": "good", "B.CONF": "good", "b+3.conf": "new: not booted yet", "b+2-1.conf": "on trial: 1 of 3 tries used", "a+0-3.conf": "bad: tried 3 times without success",
	} {
		e, ok := parseName(name)
		if !ok || e.State() != want || !strings.EqualFold(e.Name(), name) {
			t.Errorf("%s is %q and would be named %s, want %q", name, e.State(), e.Name(), want)
		}
	}
	for _, name := range []string{"c.conf", "reset.conf", "a+.conf", "a+3-.conf", "b.new", "b+3.conf.tmp", "a+99999999999.conf"} {
		if e, ok := parseName(name); ok {
			t.Errorf("%s is taken for %+v", name, e)
		}
	}
}

func TestTheRunningSlotIsTheCommandLines(t *testing.T) {
	for line, want := range map[string]Slot{"quiet lastack.slot=B panic=5": B, "lastack.slot=C": "", "quiet": "", "xlastack.slot=A": ""} {
		if got, ok := FromCommandLine(line); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v", line, got, ok)
		}
	}
	if got, want := optionsFor("quiet lastack.slot=A lastack.reset=1", B), "lastack.slot=B quiet"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnEntryReadsAsItWasWritten(t *testing.T) {
	want := Entry{Slot: B, Counted: true, Left: 2, Done: 1, Release: running, Title: "Lastack v1", SortKey: "k", Sequence: 9, Options: "a b=c"}
	got, ok := parseName(want.Name())
	got.parseText(want.Text())
	if !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !slices.Contains(strings.Split(string(want.Text()), "\n"), "linux    /B/vmlinuz") {
		t.Errorf("the kernel is missing in\n%s", want.Text())
	}
}
