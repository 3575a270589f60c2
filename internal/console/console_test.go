package console_test

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/console"
)

func TestWordsOfALine(t *testing.T) {
	for line, want := range map[string][]string{
		"":                            nil,
		"  status\t --json ":          {"status", "--json"},
		`conns dst "10.0.0.1 x"`:      {"conns", "dst", "10.0.0.1 x"},
		`a 'b "c' d\ e ""`:            {"a", `b "c`, "d e", ""},
		`'$(sh)' *.go ; rm && x > /y`: {"$(sh)", "*.go", ";", "rm", "&&", "x", ">", "/y"},
	} {
		got, err := console.Words(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q and %v of %q, want %q", got, err, line, want)
		}
	}
	for _, line := range []string{`"open`, `'open`, `end\`} {
		if got, err := console.Words(line); err == nil {
			t.Errorf("got %q of %q, want an error", got, line)
		}
	}
}

func FuzzWords(f *testing.F) {
	f.Add(`a 'b "c' d\ e ""`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := console.Words(line)
		if err != nil {
			return
		}
		n := 0
		for _, w := range words {
			n += len(w)
		}
		if n > len(line)*3 { // a wrong byte may become a rune of three
			t.Errorf("got %q of %q", words, line)
		}
	})
}

// told are commands that tell what they were asked for.
type told struct {
	mu  sync.Mutex
	all []string
}

func (c *told) Run(ctx context.Context, words []string, s console.Streams) int {
	c.mu.Lock()
	c.all = append(c.all, strings.Join(words, "|"))
	c.mu.Unlock()
	io.WriteString(s.Out, "begun\n")
	switch words[0] {
	case "wait":
		<-ctx.Done()
	case "read":
		text, err := io.ReadAll(s.In)
		c.mu.Lock()
		c.all = append(c.all, string(text))
		c.mu.Unlock()
		if err != nil {
			return 1
		}
	}
	io.WriteString(s.Out, "done\n")
	return 0
}

func (c *told) Complete([]string) []string { return []string{"conn", "conns"} }

// page is what was written so far.
type page struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// run types keys at a prompt and returns what the commands were, and the screen.
func run(t *testing.T, keys ...string) (all []string, screen string) {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &told{}
	p := console.New(theirs, "> ", c)
	var shown page
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(&shown, ours) })
	p.Begin()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	for _, k := range keys {
		if text, waits := strings.CutPrefix(k, "until "); waits {
			for end := time.Now().Add(10 * time.Second); !strings.Contains(shown.String(), text); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%q does not show:\n%s", text, shown.String())
				}
			}
			continue
		}
		if _, err := io.WriteString(ours, k); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("the prompt does not end after %q", keys)
	}
	theirs.Close()
	reading.Wait()
	p.Wait()
	ours.Close()
	return c.all, shown.String()
}

func TestKeysAtAPrompt(t *testing.T) {
	for name, c := range map[string]struct {
		keys []string
		want []string
	}{
		"a line":                            {[]string{"one two\r", "\x04"}, []string{"one|two"}},
		"exit":                              {[]string{"exit\r"}, nil},
		"what is typed ahead":               {[]string{"one\rtwo\rthree\r\x04"}, []string{"one", "two", "three"}},
		"the line before":                   {[]string{"one\r", "\x1b[A\r", "\x04"}, []string{"one", "one"}},
		"a line that is given up":           {[]string{"one", "until one", "\x03", "two\r", "\x04"}, []string{"two"}},
		"a command that is":                 {[]string{"wait\r", "until begun", "\x03", "two\r", "\x04"}, []string{"wait", "two"}},
		"input of a command":                {[]string{"read\r", "a\r", "b\r", "\x04", "two\r", "\x04"}, []string{"read", "a\nb\n", "two"}},
		"the same at once, with line feeds": {[]string{"read\r\na\r\nb\r\n\x04two\r\n\x04"}, []string{"read", "a\nb\n", "two"}},
		"input that is given up":            {[]string{"read\r", "a\r", "half", "until half", "\x03", "two\r", "\x04"}, []string{"read", "a\n", "two"}},
		"a quote that is not closed":        {[]string{"one 'two\r", "three\r", "\x04"}, []string{"three"}},
		"what is common of two that fit":    {[]string{"co\t", "s\r", "\x04"}, []string{"conns"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, screen := run(t, c.keys...)
			if !slices.Equal(got, c.want) {
				t.Errorf("got commands %q, want %q; the screen:\n%q", got, c.want, screen)
			}
		})
	}
}
