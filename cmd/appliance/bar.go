package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// bar shows how far a copy is, on a terminal as a bar and elsewhere as a line
// every tenth.
type bar struct {
	w     io.Writer
	what  string
	total int64 // bytes; 0 if that's not known
	cols  int   // 0 on no terminal
	done  int64
	begun time.Time
	last  time.Time
	tenth int64
}

func newBar(w io.Writer, what string, total int64) *bar {
	return &bar{w: w, what: what, total: total, cols: width(w), begun: time.Now()}
}

// reader counts what is read from r.
func (b *bar) reader(r io.Reader) io.Reader { return &barReader{b, r} }

type barReader struct {
	*bar
	from io.Reader
}

func (r *barReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.add(int64(n))
	return n, err
}

func (b *bar) add(n int64) {
	b.done += n
	now := time.Now()
	if b.cols > 0 {
		if now.Sub(b.last) > 100*time.Millisecond {
			b.last = now
			b.draw(now)
		}
		return
	}
	if b.total > 0 && b.done*10/b.total > b.tenth {
		b.tenth = b.done * 10 / b.total
		fmt.Fprintf(b.w, "%s: %d %%\n", b.what, b.tenth*10)
	}
}

func (b *bar) draw(now time.Time) {
	speed := float64(b.done) / (1 << 20) / max(now.Sub(b.begun).Seconds(), 0.001)
	if b.total <= 0 {
		fmt.Fprintf(b.w, "\r%s: %s, %.1f MiB/s ", b.what, size(uint64(b.done)), speed)
		return
	}
	full := int(min(b.done, b.total) * barWidth / b.total)
	fmt.Fprintf(b.w, "\r%s [%s%s] %3d %%, %.1f MiB/s ", b.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), min(b.done, b.total)*100/b.total, speed)
}

// end leaves the cursor on a line of its own.
func (b *bar) end() {
	if b.cols > 0 {
		b.draw(time.Now())
		fmt.Fprintln(b.w)
	}
}
