package config

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// DefaultDrain returns how the process stops when the file doesn't say.
func DefaultDrain() Drain {
	return Drain{Deadline: 30 * time.Second, FinGrace: 5 * time.Second, Refuse: "rst"}
}

// DefaultSocket is where the daemon answers when the file doesn't say.
const DefaultSocket = "/run/appliance.sock"

func (p *parser) drain(v value) Drain {
	d := DefaultDrain()
	if !v.present() {
		return d
	}
	v.mapping(
		field{"announce", func(v value) { v.duration(&d.Announce, 0, day) }},
		field{"deadline", func(v value) { v.duration(&d.Deadline, shortest, day) }},
		field{"fin_grace", func(v value) { v.duration(&d.FinGrace, shortest, day) }},
		field{"refuse", func(v value) { v.oneOf(&d.Refuse, "rst", "silence") }},
	)
	return d
}

func (p *parser) admin(v value) Admin {
	a := Admin{Socket: DefaultSocket}
	if !v.present() {
		return a
	}
	if v.off() {
		return Admin{}
	}
	v.mapping(field{"socket", func(v value) { v.socket(&a.Socket) }})
	return a
}

// socket decodes the path of a unix socket, or off.
func (v value) socket(dst *string) {
	const longest = 107 // unix(7): sun_path has 108 bytes with the final NUL
	if v.off() {
		*dst = ""
		return
	}
	text, ok := v.text("an absolute path, or off")
	switch {
	case !ok:
	case strings.ContainsFunc(text, invisible):
		v.failf("%s has an invisible character in it", quote(text))
	case !path.IsAbs(text):
		v.failf("%s is not an absolute path; it starts with /", quote(text))
	case path.Clean(text) != text:
		v.failf("%s is not a clean path of a file; write %s", quote(text), path.Clean(text))
	case text == "/":
		v.failf("%s is a directory", quote(text))
	case len(text) > longest:
		v.fail(fmt.Sprintf("the path has %d bytes, more than a unix socket can have", len(text)), fmt.Sprintf("up to %d bytes", longest))
	default:
		*dst = text
	}
}
