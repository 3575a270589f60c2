package bundle

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"aead.dev/minisign"
)

// maxText bounds what is read before the signature is known to be good, in bytes.
const maxText = 64 << 10

// ErrSignature is the reason to refuse a bundle that none of the keys has signed.
var ErrSignature = errors.New("the signature is not by any of this box's update keys")

// Bundle is one whose manifest is signed. Its files come from Next.
type Bundle struct {
	Manifest Manifest
	Signer   minisign.PublicKey

	tar  *tar.Reader
	next int
}

// Read reads manifest and signature. After an error nothing of what was read
// may be used.
func Read(r io.Reader, keys []minisign.PublicKey) (*Bundle, error) {
	if len(keys) == 0 {
		return nil, errors.New("this box has no update keys, so it can trust no bundle")
	}
	t := tar.NewReader(r)
	text, err := take(t, manifestName)
	if err != nil {
		return nil, err
	}
	signature, err := take(t, signatureName)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if !minisign.Verify(key, text, signature) {
			continue
		}
		m, err := decode(text)
		if err != nil {
			return nil, err
		}
		return &Bundle{Manifest: m, Signer: key, tar: t}, nil
	}
	return nil, ErrSignature
}

// take reads a small file that must come next.
func take(t *tar.Reader, name string) ([]byte, error) {
	h, err := t.Next()
	if err != nil {
		return nil, explain(err)
	}
	if h.Name != name || h.Size > maxText {
		return nil, fmt.Errorf("this is no bundle: it has %q of %d bytes where a small %s belongs", h.Name, h.Size, name)
	}
	text, err := io.ReadAll(t)
	if err != nil {
		return nil, explain(err)
	}
	return text, nil
}

// Next yields the next file, io.EOF after the last. The reader ends with io.EOF
// only if what it gave is what was signed.
func (b *Bundle) Next() (File, io.Reader, error) {
	if b.next == len(b.Manifest.Files) {
		return File{}, nil, io.EOF
	}
	f := b.Manifest.Files[b.next]
	b.next++
	h, err := b.tar.Next()
	if err != nil {
		return f, nil, explain(err)
	}
	if h.Name != f.Name || h.Size != f.Size {
		return f, nil, fmt.Errorf("the bundle has %q of %d bytes where the manifest says %s of %d", h.Name, h.Size, f.Name, f.Size)
	}
	return f, &checked{file: f, from: b.tar, hash: sha256.New()}, nil
}

// checked compares what passes with a File.
type checked struct {
	file File
	from io.Reader
	hash hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.file.SHA256 {
			return n, fmt.Errorf("%s is damaged: its SHA-256 begins with %.16s and the manifest says %.16s", c.file.Name, got, c.file.SHA256)
		}
		return n, io.EOF
	}
	if err != nil {
		return n, explain(err)
	}
	return n, nil
}

// explain says it in words of the one who chose the file.
func explain(err error) error {
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the bundle is cut off: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, tar.ErrHeader):
		return errors.New("this is no bundle: it is no tar archive, or damaged")
	}
	return fmt.Errorf("read the bundle: %w", err)
}
