package cpio

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Entry is one thing in an archive.
type Entry struct {
	Name string
	Mode uint32 // type and permissions
	Data []byte
}

// maxFile is more than any file of ours; an archive that says more is wrong.
const maxFile = 1 << 30

// Read calls visit with each entry of an archive up to its trailer.
func Read(r io.Reader, visit func(Entry) error) error {
	for {
		e, err := readEntry(r)
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if e.Name == trailer {
			return nil
		}
		if err := visit(e); err != nil {
			return err
		}
	}
}

func readEntry(r io.Reader) (e Entry, err error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return e, err
	}
	if string(head[:6]) != magic {
		return e, errors.New("an entry doesn't begin with " + magic)
	}
	number := func(i int) uint64 {
		n, wrong := strconv.ParseUint(string(head[6+8*i:14+8*i]), 16, 32)
		err = errors.Join(err, wrong)
		return n
	}
	mode, size, name := number(1), number(6), number(11)
	if err != nil {
		return e, err
	}
	if size > maxFile || name == 0 || name > 4096 {
		return e, fmt.Errorf("an entry of %d bytes with a name of %d", size, name)
	}
	text := make([]byte, padded(headerSize+name)-headerSize)
	if _, err := io.ReadFull(r, text); err != nil {
		return e, err
	}
	e.Name, e.Mode = strings.TrimRight(string(text[:name]), "\x00"), uint32(mode)
	e.Data = make([]byte, padded(size))
	if _, err := io.ReadFull(r, e.Data); err != nil {
		return e, err
	}
	e.Data = e.Data[:size]
	return e, nil
}

func padded(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
