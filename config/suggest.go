package config

import "strings"

// nearest returns the allowed word that was probably meant, or "".
func nearest(word string, allowed []string) string {
	const longest = 40 // nobody mistypes into more than that
	if len(word) > longest {
		return ""
	}
	word = normal(word)
	best, found := "", len(word)/3+1 // one slip in a short word, more in a long one
	for _, candidate := range allowed {
		if d := distance(word, normal(candidate)); d <= found && d < len(candidate) {
			if d == found && best != "" {
				continue
			}
			best, found = candidate, d
		}
	}
	return best
}

// normal makes spellings that differ only in case or dashes the same.
func normal(word string) string {
	return strings.ReplaceAll(strings.ToLower(word), "-", "_")
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours between two words (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
