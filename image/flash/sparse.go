package flash

import (
	"bytes"
	"io"
	"os"
)

// CopySparse copies an image into an empty file and leaves holes where there
// are only zeros.
func CopySparse(to *os.File, from io.Reader) error {
	s := &sparse{to: to, zeros: make([]byte, chunk)}
	// Without the other methods of from, which would bring pieces of their own size.
	if _, err := io.CopyBuffer(s, struct{ io.Reader }{from}, make([]byte, chunk)); err != nil {
		return err
	}
	return to.Truncate(s.at)
}

// sparse writes what is not zero, in pieces of a chunk at most.
type sparse struct {
	to    *os.File
	at    int64
	zeros []byte
}

func (s *sparse) Write(p []byte) (int, error) {
	if !bytes.Equal(p, s.zeros[:len(p)]) {
		if n, err := s.to.WriteAt(p, s.at); err != nil {
			return n, err
		}
	}
	s.at += int64(len(p))
	return len(p), nil
}
