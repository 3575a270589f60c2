package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// page is what a person reads. The first error of writing it is kept, and
// nothing is written after it.
type page struct {
	w     io.Writer
	color bool
	width int // columns; 0 if it is no terminal
	steps int
	err   error
}

// The styles, as the numbers of SGR in ECMA-48, 8.3.117.
const (
	plain = ""
	bold  = "1"
	faint = "2"
	red   = "1;31"
	green = "1;32"
	cyan  = "36"
)

// indent stands before everything but headings.
const indent = "   "

func (p *page) write(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, s)
	}
}

func (p *page) styled(style, s string) string {
	if !p.color || style == plain || s == "" {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func (p *page) title(s string) { p.write(p.styled(bold, s) + "\n") }

// heading begins the next step.
func (p *page) heading(title string) {
	p.steps++
	p.write("\n" + p.styled(bold, fmt.Sprintf("%d. %s", p.steps, title)) + "\n\n")
}

// say writes a remark.
func (p *page) say(format string, args ...any) {
	p.lines(plain, fmt.Sprintf(format, args...))
}

// command writes a command as it would be typed.
func (p *page) command(args ...string) {
	p.lines(cyan, "$ "+strings.Join(args, " "))
}

// output writes what a command wrote, a table in full width if it fits.
func (p *page) output(text string) {
	room := 0
	if p.width > 0 {
		room = p.width - len(indent) - 1
	}
	p.lines(plain, strings.Join(fold(strings.Split(strings.TrimRight(text, "\n"), "\n"), room), "\n"))
}

// log writes lines of a log, cut to the width.
func (p *page) log(lines string) {
	for line := range strings.Lines(lines) {
		line = strings.TrimRight(line, "\n")
		if p.width > 0 {
			line = clip(line, p.width-len(indent)-1)
		}
		p.lines(faint, line)
	}
}

// verdict is the last word.
func (p *page) verdict(style, line string) { p.write("\n" + p.styled(style, line) + "\n") }

func (p *page) gap() { p.write("\n") }

func (p *page) lines(style, text string) {
	for line := range strings.Lines(text + "\n") {
		line = strings.TrimRight(line, "\n")
		if line != "" {
			line = indent + p.styled(style, line)
		}
		p.write(line + "\n")
	}
}

// meter is a line that changes: in place on a terminal, elsewhere once a second.
type meter struct {
	page  *page
	shown time.Time
}

func (p *page) meter() *meter { return &meter{page: p, shown: time.Now()} }

// show may be called often.
func (m *meter) show(line string) {
	if m.page.width > 0 {
		m.page.write("\r" + indent + clip(line, m.page.width-len(indent)-1) + "\x1b[K")
		return
	}
	if time.Since(m.shown) >= time.Second {
		m.shown = time.Now()
		m.page.write(indent + line + "\n")
	}
}

// end leaves the line as it is at last.
func (m *meter) end(line string) {
	m.shown = time.Time{}
	m.show(line)
	if m.page.width > 0 {
		m.page.write("\n")
	}
}

// gauge is a bar, full at 1.
func gauge(share float64, cells int) string {
	full := int(max(0, min(1, share))*float64(cells) + 0.5)
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", cells-full) + "]"
}

// clip cuts a line to so many columns.
func clip(s string, columns int) string {
	if columns <= 0 || utf8.RuneCountInString(s) <= columns {
		return s
	}
	return string([]rune(s)[:max(0, columns-3)]) + "..."
}
