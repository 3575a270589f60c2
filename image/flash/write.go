package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/inspect"
)

// Job is an image on its way to a disk.
type Job struct {
	Image string // file, .img or .img.zst
	To    string // block device or regular file
	Add   []disk.File
	// Progress is told the stage ("write", "verify") and how far it is, in bytes.
	Progress func(stage string, done, total int64)
}

const chunk = 1 << 20

// ErrDiffers is returned when the medium doesn't give back what was written.
var ErrDiffers = errors.New("the medium doesn't hold what was written to it: it is broken, or smaller than it says")

// Run writes the image and reads it back from the medium. What is written past
// an error is not undone.
func (j Job) Run(ctx context.Context) (err error) {
	total, err := lengthOf(j.Image)
	if err != nil {
		return err
	}
	in, err := Open(j.Image)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	out, err := openTarget(j.To)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	size, err := capacity(out, total)
	if err != nil {
		return err
	}
	if err := j.write(ctx, in, out, total); err != nil {
		return err
	}
	return j.settle(out, total, size)
}

// openTarget opens a block device, or a regular file that may be new.
func openTarget(name string) (*os.File, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "/dev/"):
		return nil, fmt.Errorf("there is no %s", name) // not a file in the memory of /dev
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, err
	case err == nil && info.Mode().Type() == os.ModeDevice:
		// O_EXCL without O_CREAT: the kernel refuses a disk that is mounted or
		// otherwise claimed (open(2)).
		return os.OpenFile(name, os.O_RDWR|unix.O_EXCL, 0)
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a disk nor a file", name)
	}
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
}

// capacity is how much the target takes. A regular file is as long as the image.
func capacity(out *os.File, total int64) (int64, error) {
	info, err := out.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode().IsRegular() {
		return total, out.Truncate(total)
	}
	size, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if size < total {
		return 0, fmt.Errorf("the image has %d MB, %s only %d MB", total/1e6, out.Name(), size/1e6)
	}
	return size, nil
}

func (j Job) write(ctx context.Context, in io.Reader, out *os.File, total int64) error {
	want := sha256.New()
	if err := j.each(ctx, "write", total, func(buf []byte, at int64) error {
		if _, err := io.ReadFull(in, buf); err != nil {
			return fmt.Errorf("read %s: %w", j.Image, err)
		}
		want.Write(buf)
		_, err := out.WriteAt(buf, at)
		return err
	}); err != nil {
		return err
	}
	if err := flush(out); err != nil {
		return err
	}
	got := sha256.New()
	if err := j.each(ctx, "verify", total, func(buf []byte, at int64) error {
		if _, err := out.ReadAt(buf, at); err != nil {
			return err
		}
		got.Write(buf)
		return nil
	}); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return ErrDiffers
	}
	return nil
}

// each goes through the image in pieces.
func (j Job) each(ctx context.Context, stage string, total int64, do func(buf []byte, at int64) error) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < total; at += chunk {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w; the disk is neither what it was nor what it should be", stage, err)
		}
		n := min(chunk, total-at)
		if err := do(buf[:n], at); err != nil {
			return fmt.Errorf("%s: %w", stage, err)
		}
		if j.Progress != nil {
			j.Progress(stage, at+n, total)
		}
	}
	return nil
}

// flush brings everything onto the medium and forgets the kernel's copy, so
// that what is read next comes from there.
func flush(out *os.File) error {
	if err := out.Sync(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	// A regular file has no such call; its pages go by the advice.
	_ = unix.IoctlSetInt(int(out.Fd()), unix.BLKFLSBUF, 0)
	if err := unix.Fadvise(int(out.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("forget what was cached: %w", err)
	}
	return nil
}

// settle fits the image to the disk, adds the user's files, and looks at the
// whole.
func (j Job) settle(out *os.File, total, size int64) error {
	if size > total {
		if err := disk.Stretch(out, size); err != nil {
			return err
		}
	}
	if len(j.Add) > 0 {
		if err := disk.Add(out, j.Add); err != nil {
			return err
		}
	}
	if err := flush(out); err != nil {
		return err
	}
	if _, err := inspect.Look(out); err != nil {
		return fmt.Errorf("look at %s afterwards: %w", j.To, err)
	}
	// The kernel may still know the partitions of before; who has none loses nothing.
	_ = unix.IoctlSetInt(int(out.Fd()), unix.BLKRRPART, 0)
	return nil
}

// Open reads an image, which is an *os.File if it is not compressed.
func Open(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(name, ".zst") {
		return f, nil
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), f.Close())
	}
	return compressed{z.IOReadCloser(), f}, nil
}

// compressed closes both.
type compressed struct {
	io.ReadCloser
	file *os.File
}

func (c compressed) Close() error { return errors.Join(c.ReadCloser.Close(), c.file.Close()) }

// lengthOf is how much Open gives. The header of a compressed file doesn't say so: it
// is read once, which also finds a file that is cut off before anything is written.
func lengthOf(name string) (int64, error) {
	in, err := Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close() // only read
	if plain, ok := in.(*os.File); ok {
		return plain.Seek(0, io.SeekEnd)
	}
	n, err := io.Copy(io.Discard, in)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return n, nil
}
