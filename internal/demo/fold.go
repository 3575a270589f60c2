package demo

import (
	"strings"
	"unicode/utf8"
)

// fold makes lines fit into so many columns, 0 being without limit. Those of a
// table are broken in front of the same column, so that the rest of all rows
// lines up under the first part.
func fold(lines []string, columns int) []string {
	if columns <= 0 || widest(lines) <= columns {
		return lines
	}
	at := columnStart(lines, columns)
	if at == 0 {
		for i, l := range lines {
			lines[i] = clip(l, columns)
		}
		return lines
	}
	var out []string
	for _, l := range lines {
		head, rest := l, ""
		if len(l) > at {
			head, rest = l[:at], l[at:]
		}
		out = append(out, strings.TrimRight(head, " "))
		if rest != "" {
			out = append(out, clip("      "+rest, columns))
		}
	}
	return out
}

// columnStart is where the last column begins of those after which the first
// part fits, as the heads of the table say; 0 if this is no table.
func columnStart(lines []string, columns int) int {
	heads, best := lines[0], 0
	for i := 2; i < len(heads); i++ {
		if heads[i] != ' ' && heads[i-2:i] == "  " && aligned(lines, i) && widestPart(lines, i) <= columns {
			best = i
		}
	}
	return best
}

// aligned reports whether a column begins at i in every line.
func aligned(lines []string, i int) bool {
	for _, l := range lines {
		if len(l) > i && (l[i] == ' ' || l[i-1] != ' ') {
			return false
		}
	}
	return true
}

func widestPart(lines []string, at int) int {
	n := 0
	for _, l := range lines {
		n = max(n, len(strings.TrimRight(l[:min(at, len(l))], " ")))
	}
	return n
}

func widest(lines []string) int {
	n := 0
	for _, l := range lines {
		n = max(n, utf8.RuneCountInString(l))
	}
	return n
}
