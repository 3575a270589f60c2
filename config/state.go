package config

import (
	"strings"
	"time"
)

// DefaultState returns what is remembered when the file doesn't say.
func DefaultState() State { return State{Journal: true, JournalInterval: time.Second} }

func (p *parser) state(v value) State {
	s := DefaultState()
	if !v.present() {
		return s
	}
	v.mapping(
		field{"journal", func(v value) { v.onOff(&s.Journal) }},
		field{"journal_interval", func(v value) { v.duration(&s.JournalInterval, time.Second, time.Hour) }},
	)
	return s
}

// onOff decodes on or off; a reader of YAML 1.1 takes them for true and false.
func (v value) onOff(dst *bool) {
	switch {
	case v.off():
		*dst = false
	case strings.EqualFold(v.node.Value, "true"):
		*dst = true
	default:
		var word string
		v.oneOf(&word, "on", "off")
		*dst = *dst || word == "on"
	}
}
