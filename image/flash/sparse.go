package flash

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// CopySparse copies an image into an empty file and leaves holes where there
// are only zeros.
func CopySparse(to *os.File, from io.Reader) error {
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	var at int64
	for {
		n, err := io.ReadFull(from, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return to.Truncate(at)
		case err != nil:
			return err
		}
	}
}
