package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/disk"
)

// What lies beside an image of the name OUT.
const (
	CompressedSuffix = ".zst"
	SBOMSuffix       = ".spdx.json"
	SumsSuffix       = ".sha256"
)

// outputs writes what lies beside the image: the compressed image, the SBOM,
// and the sums of them all, in the form of sha256sum.
func (p *parts) outputs(o Options, files []disk.File, r *Report) error {
	sum, err := hashFile(o.Out)
	if err != nil {
		return err
	}
	sums := sumLine(sum, o.Out)
	if !o.Uncompressed {
		fmt.Fprintln(o.Log, "compressing the image")
		line, size, err := compressFile(o.Out)
		if err != nil {
			return err
		}
		sums += line
		r.add("image, compressed", int(size), filepath.Base(o.Out)+CompressedSuffix)
	}
	sbom, err := p.sbom(files, sum, o.Created)
	if err != nil {
		return err
	}
	line := sha256.Sum256(sbom)
	sums += sumLine(hex.EncodeToString(line[:]), o.Out+SBOMSuffix)
	return errors.Join(
		os.WriteFile(o.Out+SBOMSuffix, sbom, 0o644),
		os.WriteFile(o.Out+SumsSuffix, []byte(sums), 0o644),
		p.slotFiles(o.SlotDir),
	)
}

// slotFiles leaves the two files of a slot for an update bundle.
func (p *parts) slotFiles(dir string) error {
	if dir == "" {
		return nil
	}
	return errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, bundle.Kernel), p.slot.Kernel, 0o644),
		os.WriteFile(filepath.Join(dir, bundle.Initrd), p.slot.Initrd, 0o644))
}

func sumLine(sum, name string) string { return sum + "  " + filepath.Base(name) + "\n" }

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// imageWindow reaches from slot B back to slot A: if they are the same, only one
// is in the compressed image.
const imageWindow = 64 << 20

// compressFile makes NAME.zst and returns its line of sums and its size.
func compressFile(name string) (line string, size int64, err error) {
	in, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer in.Close() // only read
	out, err := os.Create(name + CompressedSuffix)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	z, err := compressor(io.MultiWriter(out, h), imageWindow)
	if err != nil {
		return "", 0, err
	}
	if _, err := io.Copy(z, in); err != nil {
		return "", 0, err
	}
	if err := z.Close(); err != nil {
		return "", 0, err
	}
	info, err := out.Stat()
	if err != nil {
		return "", 0, err
	}
	return sumLine(hex.EncodeToString(h.Sum(nil)), out.Name()), info.Size(), nil
}
