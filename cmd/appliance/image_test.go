package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/imagetest"
	"github.com/lastack/lastack/image/inspect"
)

// testImage is a whole image that boots nothing.
func testImage(t *testing.T) string {
	t.Helper()
	files, err := imagetest.Files(image.AMD64)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "box.img")
	if err := disk.Write(name, files); err != nil {
		t.Fatal(err)
	}
	return name
}

func writeTemp(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageVerifyTellsWhatIsOnIt(t *testing.T) {
	name := testImage(t)
	code, stdout, stderr := appliance(t, "image", "verify", name)
	if code != 0 || stderr != "" {
		t.Fatalf("got exit status %d and %q", code, stderr)
	}
	for _, want := range []string{"is whole: an image for amd64", "partition DATA   256 MiB", "entry a.conf: test", "v1 (build 1), kernel 6.1.0-test, 1 module", "/A/initrd"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in\n%s", want, stdout)
		}
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 512+40); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = appliance(t, "image", "verify", name)
	if code != exitError || !strings.Contains(stderr, "is damaged, or no image of ours: the first partition table: the header's CRC") {
		t.Errorf("damaged: got exit status %d and %q", code, stderr)
	}
}

func TestImageVerifyReadsACompressedImage(t *testing.T) {
	data, err := os.ReadFile(testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	whole := writeTemp(t, "box.img.zst", b.String())
	if code, stdout, stderr := appliance(t, "image", "verify", whole); code != 0 || !strings.Contains(stdout, "is whole: an image for amd64") {
		t.Errorf("got exit status %d, %q and %q", code, stdout, stderr)
	}
	cut := writeTemp(t, "box.img.zst", b.String()[:b.Len()-10])
	if code, _, stderr := appliance(t, "image", "verify", cut); code != exitError || !strings.Contains(stderr, "read "+cut+": unexpected EOF") {
		t.Errorf("cut off: got exit status %d and %q, want the file and its end", code, stderr)
	}
}

func TestImageFlashBringsFirstSettingsAlong(t *testing.T) {
	name, to := testImage(t), filepath.Join(t.TempDir(), "disk")
	config := writeTemp(t, "my.yaml", "interfaces: {eth0: {dhcp: true}}\nservices: {echo: {type: echo, listen: \"eth0:7\"}}\n")
	keys := writeTemp(t, "keys", "ssh-ed25519 AAAA\n")
	code, stdout, stderr := appliance(t, "image", "flash", "--to", to, "--config", config, "--authorized-keys", keys, name)
	if code != 0 || !strings.Contains(stdout, "read back and compared") || !strings.Contains(stderr, "verify: 100 %") {
		t.Fatalf("got exit status %d, %q and %q", code, stdout, stderr)
	}
	code, stdout, _ = appliance(t, "image", "verify", "--json", to)
	var s inspect.Summary
	if err := json.Unmarshal([]byte(stdout), &s); code != 0 || err != nil || len(s.Provision) != 2 {
		t.Errorf("got exit status %d, %v and files %v, want both", code, err, s.Provision)
	}
}

func TestImageFlashWritesOverNothingUnasked(t *testing.T) {
	name, to := testImage(t), writeTemp(t, "disk", "precious")
	for flags, want := range map[string]string{"": "that is not its name: nothing was written", "--name other": `--name says "other"`} {
		code, _, stderr := appliance(t, append(append([]string{"image", "flash", "--to", to}, strings.Fields(flags)...), name)...)
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: got exit status %d and %q, want %q", flags, code, stderr, want)
		}
	}
	if data, err := os.ReadFile(to); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q now (%v)", data, err)
	}
	if code, _, stderr := appliance(t, "image", "flash", "--to", to, "--name", "disk", name); code != 0 {
		t.Errorf("by its name: got exit status %d and %q", code, stderr)
	}
}

func TestImageFlashRefusesWhatTheBoxWouldRefuse(t *testing.T) {
	to := filepath.Join(t.TempDir(), "disk")
	wrong := writeTemp(t, "wrong.yaml", "interfaces: {eth0: {dhcp: perhaps}}\n")
	code, _, stderr := appliance(t, "image", "flash", "--to", to, "--config", wrong, testImage(t))
	if code != exitUsage || !strings.Contains(stderr, "wrong.yaml:1:") {
		t.Errorf("got exit status %d and %q, want the mistake with its place", code, stderr)
	}
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestImageCommandsNameWhatIsWrong(t *testing.T) {
	for args, want := range map[string]string{
		"image build x":                             "is one argument too many",
		"image build --arch riscv64":                `there are no images for "riscv64"`,
		"image build --lock nowhere":                "nowhere: no such file",
		"image verify":                              "name one image or disk",
		"image verify nowhere.img":                  "nowhere.img: no such file",
		"image flash --to /dev/null":                "name one image to write",
		"image flash --to /dev/nowhere nowhere.img": "nowhere.img: no such file",
		"image lock --update":                       "name the file to write by --lock",
		"qemu --http-port 0":                        "--http-port 0 is no port",
		"qemu a b":                                  "is one argument too many",
	} {
		if code, _, stderr := appliance(t, strings.Fields(args)...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: got exit status %d and %q, want %q", args, code, stderr, want)
		}
	}
}

func TestImageLockShowsThePackages(t *testing.T) {
	code, stdout, _ := appliance(t, "image", "lock")
	for _, want := range []string{"Debian bookworm", "_amd64.deb", "_arm64.deb", "systemd-boot-efi_", "e2fsck-static_"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("got exit status %d, and %q is not in\n%s", code, want, stdout)
		}
	}
}
