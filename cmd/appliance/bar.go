package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// How wide a bar is, by how much room the words beside it leave.
const (
	barWidth  = 30
	barNarrow = 10
)

// barLine is a bar between a name and what there is to say, which takes so many columns
// at most; nothing to do is all done.
func barLine(name string, done, total int64, text string, most, cols int) string {
	wide := int64(min(barWidth, max(barNarrow, cols-1-utf8.RuneCountInString(name)-len(" [] ")-most)))
	full := wide
	if total > 0 {
		full = min(done, total) * wide / total
	}
	return name + " [" + strings.Repeat("#", int(full)) + strings.Repeat(".", int(wide-full)) + "] " + text
}

// fit cuts a line that a terminal would wrap. The last column stays free: some wrap there already.
func fit(line string, cols int) string {
	if n := utf8.RuneCountInString(line); cols <= 1 || n < cols {
		return line
	}
	return string([]rune(line)[:cols-2]) + "…"
}

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
	line := fmt.Sprintf("%s: %s, %.1f MiB/s", b.what, size(uint64(b.done)), speed)
	if b.total > 0 {
		line = barLine(b.what, b.done, b.total, fmt.Sprintf("%3d %%, %.1f MiB/s", min(b.done, b.total)*100/b.total, speed), len("100 %, 10000.0 MiB/s"), b.cols)
	}
	fmt.Fprintf(b.w, "\r\x1b[K%s", fit(line, b.cols))
}

// end leaves the cursor on a line of its own.
func (b *bar) end() {
	if b.cols > 0 {
		b.draw(time.Now())
		fmt.Fprintln(b.w)
	}
}
