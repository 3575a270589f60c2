package demo

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestATableIsFoldedAtTheSameColumn(t *testing.T) {
	table := func() []string {
		return []string{
			"ID  STATE        CLIENT   TO CLIENT  AGE",
			"1   ESTABLISHED  a:1      1.0 KiB    5s",
			"10  CLOSED       bbbbb:2  7 B        10.5ms",
		}
	}
	if got := fold(table(), 60); !slices.Equal(got, table()) {
		t.Errorf("got %q where there is room", got)
	}
	want := []string{
		"ID  STATE        CLIENT",
		"      TO CLIENT  AGE",
		"1   ESTABLISHED  a:1",
		"      1.0 KiB    5s",
		"10  CLOSED       bbbbb:2",
		"      7 B        10.5ms",
	}
	if got := fold(table(), 32); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := fold([]string{"a sentence that is too long"}, 12); !slices.Equal(got, []string{"a sentenc..."}) {
		t.Errorf("got %q of what is no table", got)
	}
	if got := fold([]string{""}, 12); !slices.Equal(got, []string{""}) {
		t.Errorf("got %q of nothing", got)
	}
}

func TestAMeterChangesInPlaceOnATerminalOnly(t *testing.T) {
	for _, c := range []struct {
		width int
		want  string
	}{
		{0, "   last\n"},
		{80, "\r   first\x1b[K\r   last\x1b[K\n"},
		{9, "\r   first\x1b[K\r   last\x1b[K\n"},
		{8, "\r   f...\x1b[K\r   last\x1b[K\n"},
	} {
		var b strings.Builder
		m := (&page{w: &b, width: c.width}).meter()
		m.show("first")
		m.end("last")
		if got := b.String(); got != c.want {
			t.Errorf("width %d: got %q, want %q", c.width, got, c.want)
		}
	}
}

func TestAGaugeStaysInItsBounds(t *testing.T) {
	for share, want := range map[float64]string{-1: "[    ]", 0: "[    ]", 0.5: "[==  ]", 1: "[====]", 3: "[====]"} {
		if got := gauge(share, 4); got != want {
			t.Errorf("%v: got %q, want %q", share, got, want)
		}
	}
}

type brokenPipe struct{ writes int }

var errBroken = errors.New("broken pipe")

func (b *brokenPipe) Write([]byte) (int, error) {
	b.writes++
	return 0, errBroken
}

func TestNothingIsWrittenAfterAnError(t *testing.T) {
	var w brokenPipe
	p := &page{w: &w}
	p.say("one")
	p.say("two")
	if w.writes != 1 || !errors.Is(p.err, errBroken) {
		t.Errorf("got %d writes and %v, want one and its error", w.writes, p.err)
	}
}
