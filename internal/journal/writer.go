package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

// Writer makes a new journal of a card, beside the one that is there. After
// Create, Commit is to be called, once.
type Writer struct {
	kind      Kind
	dir, card string
	file      *os.File
	buf       *bufio.Writer
	n         int
	sum       uint32
	err       error // the first, of any Add
}

// draftPath has a fixed name, so that crashes do not leave one file each.
func (k Kind) draftPath(dir, card string) string {
	return filepath.Join(dir, "."+card+"."+string(k)+".new")
}

// Create begins a journal in dir, which must exist.
func Create(k Kind, dir, card string) (*Writer, error) {
	f, err := os.OpenFile(k.draftPath(dir, card), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the journal of connections: %w", err)
	}
	w := &Writer{kind: k, dir: dir, card: card, file: f, buf: bufio.NewWriterSize(f, 64<<10)}
	_, w.err = w.buf.Write(make([]byte, headerSize)) // its place
	return w, nil
}

// Add writes one connection. An error is kept for Commit.
func (w *Writer) Add(c *Conn) {
	if w.err != nil {
		return
	}
	var p [RecordSize]byte
	c.write(&p)
	w.sum = crc32.Update(w.sum, castagnoli, p[:])
	w.n++
	_, w.err = w.buf.Write(p[:])
}

// Commit puts the journal in the place of the old one. The file reaches the disk
// before its name does, so that a power cut leaves one of both whole; which of
// them does not matter, and the directory is not waited for.
func (w *Writer) Commit(now Moment) error {
	if w.err == nil {
		w.err = w.buf.Flush()
	}
	if w.err == nil {
		_, w.err = w.file.WriteAt(w.header(now), 0)
	}
	if w.err == nil {
		w.err = w.file.Sync()
	}
	if err := w.file.Close(); w.err == nil {
		w.err = err
	}
	if w.err == nil {
		w.err = os.Rename(w.file.Name(), w.kind.Path(w.dir, w.card))
	}
	if w.err != nil {
		return errors.Join(fmt.Errorf("write the journal of connections: %w", w.err), os.Remove(w.file.Name()))
	}
	return nil
}

func (w *Writer) header(now Moment) []byte {
	be := binary.BigEndian
	h := append(make([]byte, 0, headerSize), w.kind.magic()...)
	h = be.AppendUint16(h, version)
	h = be.AppendUint16(h, RecordSize)
	h = be.AppendUint32(h, uint32(w.n))
	h = be.AppendUint64(h, uint64(now.Wall.UnixNano()))
	h = be.AppendUint64(h, uint64(now.Up))
	h = append(h, now.Boot[:]...)
	name := make([]byte, nameSize)
	copy(name, w.card)
	h = append(h, name...)
	h = be.AppendUint32(h, w.sum)
	return be.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

// rate is how many bytes a second journals may cause to be written.
const rate = 1 << 20

// Pause is how long to wait after having written so many bytes, at least the
// given time.
func Pause(written int, least time.Duration) time.Duration {
	return max(least, time.Duration(written)*time.Second/rate)
}
