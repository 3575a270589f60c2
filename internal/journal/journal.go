package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"
)

// Kind is what a file tells of.
type Kind string

// The kinds: each card has a file of each.
const (
	Alive    Kind = "connections" // left by a crash: whose peers believe in them
	TimeWait Kind = "time-wait"   // left by a stop: in TIME-WAIT, and on for what is left of that
)

// magic are the first eight bytes of a file.
func (k Kind) magic() string {
	if k == TimeWait {
		return "LASTACKT"
	}
	return "LASTACKJ"
}

const (
	version    = 1
	headerSize = 72
	nameSize   = 16 // the kernel's IFNAMSIZ
)

// MaxAge is when a journal is too old to act upon. A peer that has heard
// nothing for a day has mostly noticed by itself: Linux's keepalive takes two
// hours and eleven minutes, and NATs on the way forget sooner (RFC 5382, REQ-5:
// two hours and four minutes). What grows with the age is the chance that
// addresses and ports belong to others by now.
const MaxAge = 24 * time.Hour

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Path is the file of a card in a state directory.
func (k Kind) Path(dir, card string) string { return filepath.Join(dir, card+"."+string(k)) }

// Journal is one that a crash has left.
type Journal struct {
	Age     time.Duration // since it was written
	records []byte
}

// Len counts the connections.
func (j *Journal) Len() int { return len(j.records) / RecordSize }

// All yields the connections. The Conn is overwritten by the next one.
func (j *Journal) All() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		var c Conn
		for p := j.records; len(p) >= RecordSize; p = p[RecordSize:] {
			c.read(p)
			if !yield(&c) {
				return
			}
		}
	}
}

// Load reads the journal of a card. The error is fs.ErrNotExist if there is
// none; any other says in a sentence why this one can't be acted upon.
func Load(k Kind, dir, card string, now Moment) (*Journal, error) {
	path := k.Path(dir, card)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	j, err := load(k, f, card, now)
	if err != nil {
		return nil, fmt.Errorf("journal %s %w", path, err)
	}
	return j, nil
}

func load(k Kind, f *os.File, card string, now Moment) (*Journal, error) {
	var h [headerSize]byte
	n, err := io.ReadFull(f, h[:])
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("cannot be read: %w", err)
	case n < 8 || string(h[:8]) != k.magic():
		return nil, errors.New("is no journal of connections")
	case n < 12:
		return nil, errors.New("is cut short")
	}
	be := binary.BigEndian
	if v := be.Uint16(h[8:]); v != version {
		return nil, fmt.Errorf("is of version %d and this program knows version %d", v, version)
	}
	switch {
	case n < headerSize:
		return nil, errors.New("is cut short")
	case be.Uint32(h[68:]) != crc32.Checksum(h[:68], castagnoli), be.Uint16(h[10:]) != RecordSize:
		return nil, errors.New("is damaged: the checksum of its header is wrong")
	}
	if name := string(bytes.TrimRight(h[48:64], "\x00")); name != card {
		return nil, fmt.Errorf("is about card %q", name)
	}
	written := Moment{Wall: time.Unix(0, int64(be.Uint64(h[16:]))), Up: time.Duration(be.Uint64(h[24:])), Boot: [16]byte(h[32:48])}
	j := &Journal{Age: now.since(written)}
	if j.Age > MaxAge {
		return nil, fmt.Errorf("is %v old, more than the %v after which peers are left alone", j.Age.Round(time.Minute), MaxAge)
	}
	if j.Age < -MaxAge {
		return nil, fmt.Errorf("was written at %s, which is in the future: its age cannot be told", written.Wall.UTC().Format(time.RFC3339))
	}
	j.Age = max(j.Age, 0)
	return j, j.fill(f, int64(be.Uint32(h[12:]))*RecordSize, be.Uint32(h[64:]))
}

// fill reads the records; how many there are has to agree with the file.
func (j *Journal) fill(f *os.File, size int64, sum uint32) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if fi.Size() < headerSize+size {
		return errors.New("is cut short")
	}
	j.records = make([]byte, size)
	if _, err := io.ReadFull(f, j.records); err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	if fi.Size() != headerSize+size || crc32.Checksum(j.records, castagnoli) != sum {
		return errors.New("is damaged: the checksum of its records is wrong")
	}
	return nil
}

// Remove forgets the journal of a card, and what a crash has left of one that
// was being written. It is no error if there is none.
func Remove(k Kind, dir, card string) error {
	var errs []error
	for _, path := range []string{k.Path(dir, card), k.draftPath(dir, card)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the journal of connections: %w", err))
		}
	}
	return errors.Join(errs...)
}
