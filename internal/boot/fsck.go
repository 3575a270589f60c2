package boot

import (
	"io"
	"os"
	"strings"
	"time"
)

// longestCheck bounds a run of e2fsck, during which the watchdog is fed.
const longestCheck = 15 * time.Minute

// fsck runs e2fsck and gives its exit status and the last of what it said.
func (b *Box) fsck(args ...string) (status int, said string) {
	r, w, err := os.Pipe()
	if err != nil {
		return 8, err.Error()
	}
	defer r.Close()
	p, exited, err := b.procs.start(b.path(fsckProgram), append([]string{"e2fsck"}, args...), &os.ProcAttr{Dir: "/", Files: []*os.File{nil, w, w}})
	_ = w.Close()
	if err != nil {
		return 8, err.Error() // 8 is "operational error"
	}
	text := make(chan string, 1)
	b.start(func() {
		out, _ := io.ReadAll(io.LimitReader(r, 64<<10))
		_, _ = io.Copy(io.Discard, r)
		text <- lastLines(string(out), 5)
	})
	s := b.waitFor(p, exited, longestCheck)
	if s.Signaled() {
		return 8, "ended by signal " + s.Signal().String()
	}
	return s.ExitStatus(), <-text
}

// lastLines are the last n, in one.
func lastLines(text string, n int) string {
	all := strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' })
	return strings.Join(all[max(0, len(all)-n):], " | ")
}
