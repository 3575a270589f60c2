// Package cpio writes the archive that the kernel unpacks into its initramfs:
// the "new ASCII" form, "070701" (Documentation/driver-api/early-userspace/
// buffer-format.rst). What is written depends on nothing but what is given:
// inode numbers count up, owners are root, times are zero.
//
// Read reads such an archive. There are no goroutines; a Writer is for one.
package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
)

// Modes of what an archive holds (inode(7)).
const (
	dir     = 0o040000
	regular = 0o100000
	char    = 0o020000

	magic      = "070701"
	trailer    = "TRAILER!!!"
	headerSize = 110
	align      = 4
)

// Writer appends entries to an archive. A directory comes before what is in it.
type Writer struct {
	w   io.Writer
	ino uint32
	off int64
	err error
}

// NewWriter writes to w, which the caller closes.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// header is a line of 13 numbers in hexadecimal, in the order of the format.
type header struct {
	mode, nlink, size, major, minor uint32
}

// Dir adds a directory; perm are its permission bits.
func (w *Writer) Dir(name string, perm uint32) error {
	return w.entry(name, header{mode: dir | perm, nlink: 2}, nil)
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, data []byte) error {
	if int64(len(data)) > math.MaxUint32 {
		return fmt.Errorf("archive %s: a file of %d bytes is too large for the format", name, len(data))
	}
	return w.entry(name, header{mode: regular | perm, nlink: 1, size: uint32(len(data))}, data)
}

// Device adds a character device.
func (w *Writer) Device(name string, perm, major, minor uint32) error {
	return w.entry(name, header{mode: char | perm, nlink: 1, major: major, minor: minor}, nil)
}

// Close ends the archive with its trailer.
func (w *Writer) Close() error {
	w.ino = math.MaxUint32 // the next is 0
	return w.entry(trailer, header{nlink: 1}, nil)
}

func (w *Writer) entry(name string, h header, data []byte) error {
	if w.err != nil {
		return w.err
	}
	if name == "" || name[0] == '/' {
		return errors.New("archive: names are relative to the root: " + name)
	}
	w.ino++
	var b bytes.Buffer
	b.WriteString(magic)
	fmt.Fprintf(&b, "%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		w.ino, h.mode, 0, 0, h.nlink, 0, h.size, 0, 0, h.major, h.minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	w.write(b.Bytes())
	w.pad()
	w.write(data)
	w.pad()
	if w.err != nil {
		return fmt.Errorf("archive %s: %w", name, w.err)
	}
	return nil
}

func (w *Writer) write(p []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(p)
		w.off += int64(len(p))
	}
}

func (w *Writer) pad() {
	if n := -w.off & (align - 1); n > 0 {
		w.write(make([]byte, n))
	}
}
