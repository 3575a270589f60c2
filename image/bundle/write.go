package bundle

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"aead.dev/minisign"
)

const (
	manifestName  = "manifest.json"
	signatureName = "manifest.json.minisig"
)

// Write makes a bundle of m's release from a kernel and an initramfs, whose
// sizes and hashes it fills in, signed with key. The same input makes the same bytes.
func Write(w io.Writer, m Manifest, kernel, initrd string, key minisign.PrivateKey) error {
	m.Form, m.Files = form, nil
	paths := []string{kernel, initrd}
	for i, name := range []string{Kernel, Initrd} {
		f, err := measure(name, paths[i])
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	if err := m.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	comment := fmt.Sprintf("lastack %s build %d %s", m.Version, m.Build, m.Arch)
	t := tar.NewWriter(w)
	if err := put(t, manifestName, text); err != nil {
		return err
	}
	if err := put(t, signatureName, minisign.SignWithComments(key, text, comment, comment)); err != nil {
		return err
	}
	for i, f := range m.Files {
		if err := putFile(t, f, paths[i]); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

func measure(name, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", path, err)
	}
	return File{Name: name, Size: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}

func put(t *tar.Writer, name string, text []byte) error {
	if err := t.WriteHeader(header(name, int64(len(text)))); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	if _, err := t.Write(text); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

func putFile(t *tar.Writer, f File, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := t.WriteHeader(header(f.Name, f.Size)); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	if _, err := io.Copy(t, in); err != nil {
		return fmt.Errorf("write %s into the bundle: %w", path, err)
	}
	return nil
}

// header is the same whenever and by whomever the bundle is made.
func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}
}
