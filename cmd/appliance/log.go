package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/console"
)

// newLog makes the daemon's log: lines for people on a terminal, JSON
// otherwise, unless format says which.
func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageErr{fmt.Errorf("log level %q: allowed are debug, info, warn, error", level)}
	}
	switch format {
	case "auto":
		if terminal(w) {
			return textLog(w, l, os.Getenv("NO_COLOR") == ""), nil
		}
	case "text":
		return textLog(w, l, terminal(w) && os.Getenv("NO_COLOR") == ""), nil
	case "json":
	default:
		return nil, usageErr{fmt.Errorf("log format %q: allowed are auto, text, json", format)}
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: spelled})), nil
}

// spelled writes durations as text does, "250ms", where JSON would have a
// number without its unit.
func spelled(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

func textLog(w io.Writer, l slog.Level, color bool) *slog.Logger {
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: l, TimeFormat: time.TimeOnly, NoColor: !color}))
}

// terminal reports whether w is one: see ioctl_tty(2).
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		_, far := w.(console.Screen)
		return far
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// width is how many columns w has, 0 if it is no terminal.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		if far, is := w.(console.Screen); is {
			return far.Columns()
		}
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
