package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/internal/console"
)

func TestABundleIsMadeAndSignedOnTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"vmlinuz", "initrd"} {
		if err := os.WriteFile(at(name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	passwords := []string{""}
	if !testing.Short() {
		passwords = append(passwords, "open sesame") // minisign's scrypt takes a gigabyte and some seconds
	}
	for _, password := range passwords {
		key := at("key" + password)
		if code, _, stderr := appliance(t, "update", "key", "--password", password, key); code != 0 {
			t.Fatalf("got exit status %d, %s", code, stderr)
		}
		if code, _, stderr := appliance(t, "update", "key", key); code != exitError || !strings.Contains(stderr, "file exists") {
			t.Errorf("a key is written over: exit status %d, %s", code, stderr)
		}
		code, _, stderr := appliance(t, "update", "bundle", "--kernel", at("vmlinuz"), "--initrd", at("initrd"), "--release", "v1", "--build", "7", "--arch", "arm64",
			"--min-from", "3", "--key", key, "--password", password, "-o", at("bundle"))
		if code != 0 {
			t.Fatalf("got exit status %d, %s", code, stderr)
		}
		data, err := os.ReadFile(at("bundle"))
		if err != nil {
			t.Fatal(err)
		}
		pub := t.TempDir()
		text, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pub, "a.pub"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := bundle.Keys(pub)
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Read(bytes.NewReader(data), keys)
		if err != nil || b.Manifest.Build != 7 || b.Manifest.MinFrom != 3 || b.Manifest.Arch != "arm64" {
			t.Fatalf("got %+v, %v", b, err)
		}
		for _, want := range []string{"content of vmlinuz", "content of initrd"} {
			_, r, err := b.Next()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); string(got) != want || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		}
		if _, _, err := b.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	}
	code, _, stderr := appliance(t, "update", "bundle", "--kernel", at("vmlinuz"), "--initrd", at("none"), "--release", "v1", "--build", "7", "--arch", "arm64", "--key", at("key"), "-o", at("other"))
	if code != exitError || !strings.Contains(stderr, "no such file") {
		t.Errorf("without an initramfs: exit status %d, %s", code, stderr)
	}
	if left, _ := filepath.Glob(at("other*")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

func TestWithoutABoxItsCommandsSaySo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"update install " + file, "update status", "update commit", "update rollback", "reboot", "poweroff", "factory-reset --yes", "log"} {
		args := append(strings.Fields(line), "--box", filepath.Join(t.TempDir(), "none"))
		code, _, stderr := appliance(t, args...)
		if code != exitError || !strings.Contains(stderr, "no firmware runs here") {
			t.Errorf("%s: exit status %d, %s", line, code, stderr)
		}
	}
	if code, _, stderr := appliance(t, "factory-reset"); code != exitUsage || !strings.Contains(stderr, "--yes if that is meant") {
		t.Errorf("exit status %d, %s", code, stderr)
	}
}

func TestFilesOfTheBoxAreNotNamedFromAfar(t *testing.T) {
	for _, line := range []string{"update install /etc/lastack/version", "update key /data/config/k", "update bundle --kernel a --initrd b --release c --build 1 --arch amd64 --key d -o e", "reboot --box /tmp/x"} {
		code, _, stderr := fromAfar(t, strings.Fields(line)...)
		if code != exitUsage || !strings.Contains(stderr, errRemoteFile.Error()) {
			t.Errorf("%s: exit status %d, %s", line, code, stderr)
		}
	}
}

// fromAfar runs a command as a session of SSH does.
func fromAfar(t *testing.T, words ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = commander{}.Run(t.Context(), words, console.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return code, out.String(), errs.String()
}

func TestProgressElsewhereThanOnATerminal(t *testing.T) {
	var out strings.Builder
	b := newBar(&out, "writing", 1000)
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{b.reader(bytes.NewReader(make([]byte, 1000)))}); err != nil {
		t.Fatal(err)
	}
	b.end()
	if got, want := out.String(), "writing: 100 %\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	b = newBar(&out, "writing", 1000)
	for range 10 {
		b.add(100)
	}
	if got := strings.Count(out.String(), "\n"); got != 10 {
		t.Errorf("got %d lines, want one for each tenth:\n%s", got, out.String())
	}
}
