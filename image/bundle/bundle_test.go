package bundle_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/lastack/lastack/image/bundle"
)

type rig struct {
	public, other minisign.PublicKey
	private       minisign.PrivateKey
	kernel        string
	initrd        string
}

func newRig(t *testing.T) rig {
	t.Helper()
	var r rig
	var err error
	if r.public, r.private, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	if r.other, _, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r.kernel, r.initrd = filepath.Join(dir, "k"), filepath.Join(dir, "i")
	for path, n := range map[string]int{r.kernel: 70_000, r.initrd: 3_001} {
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte(n)}, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

var release = bundle.Release{Version: "v1.2", Build: 12, Arch: "amd64", Kernel: "6.1.0"}

func (r rig) write(t *testing.T, m bundle.Manifest) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Write(&b, m, r.kernel, r.initrd, r.private); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll reads a bundle to its end and gives the sizes of its files.
func readAll(data []byte, keys ...minisign.PublicKey) (sizes []int, err error) {
	b, err := bundle.Read(bytes.NewReader(data), keys)
	if err != nil {
		return nil, err
	}
	for {
		_, r, err := b.Next()
		if errors.Is(err, io.EOF) {
			return sizes, nil
		}
		if err != nil {
			return sizes, err
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return sizes, err
		}
		sizes = append(sizes, len(text))
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	r := newRig(t)
	data := r.write(t, bundle.Manifest{Release: release, MinFrom: 3})
	sizes, err := readAll(data, r.other, r.public)
	if err != nil || len(sizes) != 2 || sizes[0] != 70_000 || sizes[1] != 3_001 {
		t.Errorf("got files of %v bytes, %v", sizes, err)
	}
	b, err := bundle.Read(bytes.NewReader(data), []minisign.PublicKey{r.public})
	if err != nil || b.Manifest.Release != release || b.Manifest.MinFrom != 3 || !b.Signer.Equal(r.public) {
		t.Errorf("got %+v, %v", b, err)
	}
	if !bytes.Equal(data, r.write(t, bundle.Manifest{Release: release, MinFrom: 3})) {
		t.Error("the same input makes another bundle the second time")
	}
}

func TestABundleOfAnotherSignerIsRefused(t *testing.T) {
	r := newRig(t)
	if _, err := readAll(r.write(t, bundle.Manifest{Release: release}), r.other); !errors.Is(err, bundle.ErrSignature) {
		t.Errorf("got %v, want %v", err, bundle.ErrSignature)
	}
	if _, err := readAll(r.write(t, bundle.Manifest{Release: release})); err == nil || !strings.Contains(err.Error(), "no update keys") {
		t.Errorf("without keys: %v", err)
	}
}

func TestABundleCutOffAnywhereIsRefused(t *testing.T) {
	r := newRig(t)
	data := r.write(t, bundle.Manifest{Release: release})
	end := len(data) - 2*512 - (512-3001%512)%512 // what comes after is padding and tar's end
	for _, n := range []int{0, 1, 511, 512, 700, 1024, 2000, 3000, 4096, end / 2, end - 3001, end - 1} {
		if _, err := readAll(data[:n], r.public); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("after %d of %d bytes: %v", n, len(data), err)
		}
	}
}

// Whichever byte of a bundle is another, it's refused, unless it is one that
// means nothing: padding, or tar's own fields that are not used.
func TestADamagedBundleIsRefused(t *testing.T) {
	r := newRig(t)
	data := r.write(t, bundle.Manifest{Release: release})
	whole, err := readAll(data, r.public)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += 97 {
		bad := bytes.Clone(data)
		bad[at] ^= 0x10
		sizes, err := readAll(bad, r.public)
		if err == nil && (len(sizes) != len(whole) || !meansNothing(t, data, at)) {
			t.Errorf("byte %d is another, and the bundle is taken", at)
		}
	}
}

// meansNothing reports whether a byte is in no file's content and no header.
func meansNothing(t *testing.T, data []byte, at int) bool {
	t.Helper()
	r := bytes.NewReader(data)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			return true // past the last file
		}
		start := len(data) - r.Len()
		if at >= start-512 && at < start+int(h.Size) {
			return false
		}
	}
}

func TestManifestsThatNoBoxMayTake(t *testing.T) {
	r := newRig(t)
	good := func() map[string]any {
		var m map[string]any
		b, err := bundle.Read(bytes.NewReader(r.write(t, bundle.Manifest{Release: release})), []minisign.PublicKey{r.public})
		if err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(b.Manifest)
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, tt := range map[string]struct {
		spoil func(m map[string]any)
		want  string
	}{
		"form":    {func(m map[string]any) { m["form"] = 2 }, "form 2"},
		"version": {func(m map[string]any) { m["version"] = "" }, "lacks version"},
		"options": {func(m map[string]any) { m["options"] = "quiet\nlinux /evil" }, "line break"},
		"path":    {func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["name"] = "../EFI/x" }, "must name vmlinuz and initrd"},
		"size":    {func(m map[string]any) { m["files"].([]any)[1].(map[string]any)["size"] = -1 }, "size or hash of initrd"},
		"hash":    {func(m map[string]any) { m["files"].([]any)[1].(map[string]any)["sha256"] = "" }, "size or hash of initrd"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good()
			tt.spoil(m)
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, f := range []struct {
				name string
				text []byte
			}{{"manifest.json", text}, {"manifest.json.minisig", minisign.Sign(r.private, text)}} {
				if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.text)), Mode: 0o644}); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(f.text); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := readAll(b.Bytes(), r.public); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ...%s...", err, tt.want)
			}
		})
	}
}

func TestKeysOfADirectory(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	text, err := r.public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release.pub"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := bundle.Keys(dir); err != nil || len(keys) != 1 || !keys[0].Equal(r.public) {
		t.Errorf("got %v, %v", keys, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "spoilt.pub"), []byte("RW"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Keys(dir); err == nil || !strings.Contains(err.Error(), "spoilt.pub is no minisign public key") {
		t.Errorf("got %v", err)
	}
}
