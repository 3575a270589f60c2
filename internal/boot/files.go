package boot

import (
	"fmt"
	"os"
	"strings"
)

// readLine is the first line of a small file.
func readLine(file string) (string, error) {
	text, err := os.ReadFile(file)
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line), err
}

// option is the value of a word on the kernel's command line.
func option(line, name string) (string, bool) {
	for _, o := range strings.Fields(line) {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
