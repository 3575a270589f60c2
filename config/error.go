package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one thing that is wrong, or for a warning doubtful, at one place of
// a configuration file.
type Error struct {
	File    string // as it was given to Load or Parse
	Pos     Pos    // zero when the whole file is meant
	Key     string // path of the key, as in services.web.listen[0]; "" for the file
	Message string
	Allowed string // what would be accepted; "" when the message says it
	Source  string // the line at Pos; "" when Pos is zero
}

// sourceWidth is how much of a long source line is shown around the caret.
const sourceWidth = 120

// Error renders the place, the message, the source line with a caret and what
// is allowed, on one to four lines without a final newline.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Pos != (Pos{}) {
		fmt.Fprintf(&b, ":%d:%d", e.Pos.Line, e.Pos.Column)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": " + e.Message)
	if strings.TrimSpace(e.Source) != "" {
		text, caret := e.excerpt()
		b.WriteString("\n" + text + "\n" + caret)
	}
	if e.Allowed != "" {
		b.WriteString("\nallowed: " + e.Allowed)
	}
	return b.String()
}

// excerpt returns the source line, cut around the column when it is long, and
// a line of the same indentation with the caret.
func (e Error) excerpt() (text, caret string) {
	line := []rune(e.Source)
	column := min(max(e.Pos.Column-1, 0), len(line))
	from := 0
	if len(line) > sourceWidth {
		from = max(0, min(column-sourceWidth/2, len(line)-sourceWidth))
		line = line[from:min(from+sourceWidth, len(line))]
	}
	pad := make([]rune, column-from)
	for i := range pad {
		pad[i] = ' '
		if line[i] == '\t' { // keeps the caret below whatever width a tab has
			pad[i] = '\t'
		}
	}
	return string(line), string(pad) + "^"
}

// Errors is everything that is wrong with one file, sorted by place.
type Errors []Error

// maxErrors is how many errors of one file are reported; the rest is counted.
const maxErrors = 100

// Error renders all errors, separated by newlines.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i := range e {
		texts[i] = e[i].Error()
	}
	return strings.Join(texts, "\n")
}

// sorted orders by place and cuts what nobody would read.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, byPlace)
	if len(e) <= maxErrors {
		return e
	}
	rest := Error{File: e[0].File, Message: fmt.Sprintf("%d more errors are not shown", len(e)-maxErrors)}
	return append(e[:maxErrors:maxErrors], rest)
}

func byPlace(a, b Error) int {
	return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
}

// quote shows a text from the file in a message, shortened when it is long.
func quote(s string) string {
	const longest = 48
	if utf8.RuneCountInString(s) > longest {
		s = string([]rune(s)[:longest]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// list joins names for a message, at most as many as a line holds.
func list(names []string) string {
	const most = 16
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
