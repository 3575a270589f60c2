package boot

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	ringSize     = 2 << 20 // bytes of each of the two files on DATA
	earlySize    = 256 << 10
	consoleQueue = 512 // lines
	logName      = "box.log"
)

// lines is where process 1's own log and the appliance's go, line by line: to the
// console, and to a ring of two files once DATA is there. Neither may hold the
// box up: a console that takes nothing (its other end has stopped it) loses lines,
// which are counted, and a disk that is full loses them too.
type lines struct {
	done chan struct{}

	mu      sync.Mutex  // guards what follows
	console chan []byte // nil after close
	part    []byte      // of a line that has not ended
	early   []byte      // from before the ring
	ring    *os.File
	dir     string
	size    int64
	lost    int
}

// newLines starts to write to the console; close stops it.
func newLines(console io.Writer) *lines {
	queue := make(chan []byte, consoleQueue)
	l := &lines{console: queue, done: make(chan struct{})}
	go func() { // ends when close has closed the channel
		defer close(l.done)
		for line := range queue {
			_, _ = console.Write(line) // nobody could be told
		}
	}()
	return l
}

// Write takes whole lines or parts of them.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 && len(l.part) < 16<<10 {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.part) - 1
		}
		l.lineLocked(l.part[:i+1])
		l.part = bytes.Clone(l.part[i+1:])
	}
}

func (l *lines) lineLocked(line []byte) {
	text := bytes.TrimRight(line, "\r\n")
	if l.lost > 0 {
		text = fmt.Appendf(bytes.Clone(text), " (%d lines before were not shown here)", l.lost)
	}
	select {
	case l.console <- append(bytes.Clone(text), '\r', '\n'):
		l.lost = 0
	default:
		l.lost++
	}
	dated := time.Now().UTC().AppendFormat(nil, time.RFC3339)
	dated = append(append(append(dated, ' '), bytes.TrimRight(line, "\r\n")...), '\n')
	switch {
	case l.ring != nil:
		l.keepLocked(dated)
	case len(l.early) < earlySize:
		l.early = append(l.early, dated...)
	}
}

// keep writes to the ring in dir from now on, with what was said before.
func (l *lines) keep(dir string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dir = dir
	if err := l.openLocked(); err != nil {
		return err
	}
	l.keepLocked(l.early)
	l.early = nil
	return nil
}

func (l *lines) openLocked() error {
	f, err := os.OpenFile(filepath.Join(l.dir, logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("keep the log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("keep the log: %w", err)
	}
	l.ring, l.size = f, st.Size()
	return nil
}

func (l *lines) keepLocked(text []byte) {
	if l.size+int64(len(text)) > ringSize {
		path := filepath.Join(l.dir, logName)
		_ = l.ring.Close()
		l.ring = nil
		if os.Rename(path, path+".1") != nil || l.openLocked() != nil {
			return
		}
	}
	n, _ := l.ring.Write(text) // a full disk loses lines, no more
	l.size += int64(n)
}

// tail is the end of the log, at most n bytes, whole lines.
func (l *lines) tail(n int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ring == nil {
		return bytes.Clone(l.early)
	}
	var all []byte
	for _, name := range []string{logName + ".1", logName} {
		text, err := os.ReadFile(filepath.Join(l.dir, name))
		if err == nil {
			all = append(all, text...)
		}
	}
	if len(all) > n {
		all = all[len(all)-n:]
		_, all, _ = bytes.Cut(all, []byte("\n"))
	}
	return all
}

// close brings the ring to the disk and waits for the console, but not for one that
// takes nothing. Nothing may be written afterwards.
func (l *lines) close() {
	l.mu.Lock()
	if l.ring != nil {
		_ = l.ring.Sync()
		_ = l.ring.Close()
		l.ring = nil
	}
	console := l.console
	l.console = nil // sends to it are lost from here on
	l.mu.Unlock()
	if console == nil {
		return
	}
	close(console)
	select {
	case <-l.done:
	case <-time.After(2 * time.Second):
	}
}
