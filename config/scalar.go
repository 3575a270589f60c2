package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Off is what every duration holds that the file turns off.
const Off time.Duration = -1

const (
	shortest = time.Millisecond // what timers here resolve
	day      = 24 * time.Hour   // longer waits are a slip of the pen
)

// text decodes a string and reports whether it is one. what names it.
func (v value) text(what string) (string, bool) {
	if !v.usable() {
		return "", false
	}
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!str" || v.node.Value == "" {
		v.want(what)
		return "", false
	}
	return v.node.Value, true
}

// oneOf decodes a word from a list.
func (v value) oneOf(dst *string, allowed ...string) {
	text, ok := v.text("one of " + list(allowed))
	if !ok {
		return
	}
	if !slices.Contains(allowed, text) {
		message := "unknown value " + quote(text)
		if near := nearest(text, allowed); near != "" {
			message += "; did you mean " + near + "?"
		}
		v.fail(message, list(allowed))
		return
	}
	*dst = text
}

// boolean decodes true or false; YAML 1.1's yes and on are refused because
// tools disagree about them.
func (v value) boolean(dst *bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.ShortTag() != "!!bool" {
		v.want("true or false")
		return
	}
	*dst = strings.EqualFold(v.node.Value, "true")
}

// off reports whether the value turns something off. A reader of YAML 1.1
// takes the word for false, so both mean the same here.
func (v value) off() bool {
	if v.node.Kind != yaml.ScalarNode {
		return false
	}
	switch v.node.ShortTag() {
	case "!!str":
		return strings.EqualFold(v.node.Value, "off")
	case "!!bool":
		return strings.EqualFold(v.node.Value, "false")
	}
	return false
}

// integer decodes a decimal number between lo and hi.
func (v value) integer(dst *int, lo, hi int) {
	bounds := fmt.Sprintf("%d to %d", lo, hi)
	text := v.node.Value
	tag := v.node.ShortTag()
	switch {
	case v.node.Kind != yaml.ScalarNode || tag == "!!null" || tag == "!!bool":
		v.want("a number from " + bounds)
	case tag == "!!float" && isNaN(text):
		v.fail("NaN is not a number to count with", bounds)
	case tag == "!!str" && digits(text):
		v.fail("is a text; write "+shorten(text)+" without quotes", bounds)
	case tag == "!!int" && strings.HasPrefix(text, "-"):
		v.fail(shorten(text)+" is negative", bounds)
	case !digits(text) && tag == "!!float":
		v.fail(shorten(text)+" is not a whole number", bounds)
	case !digits(text) && tag == "!!int":
		v.fail(shorten(text)+" must be written in decimal digits only", bounds)
	case !digits(text):
		v.want("a number from " + bounds)
	case len(text) > 1 && text[0] == '0':
		v.fail(shorten(text)+" has a leading zero, which some readers take for octal", bounds)
	default:
		n, err := strconv.Atoi(text)
		if err != nil || n < lo || n > hi {
			v.fail(shorten(text)+" is out of range", bounds)
			return
		}
		*dst = n
	}
}

// duration decodes a duration between lo and hi.
func (v value) duration(dst *time.Duration, lo, hi time.Duration) {
	v.limited(dst, lo, hi, formatDuration(lo)+" to "+formatDuration(hi))
}

// durationOrOff decodes a duration between 1ms and 24h, or off.
func (v value) durationOrOff(dst *time.Duration) {
	if v.off() {
		*dst = Off
		return
	}
	v.limited(dst, shortest, day, formatDuration(shortest)+" to "+formatDuration(day)+", or off")
}

func (v value) limited(dst *time.Duration, lo, hi time.Duration, bounds string) {
	const what = "a duration such as 60s"
	tag := v.node.ShortTag()
	if v.node.Kind != yaml.ScalarNode || tag == "!!null" || v.node.Value == "" {
		v.want(what)
		return
	}
	if tag == "!!bool" || v.off() {
		v.fail("cannot be "+v.node.Value+"; want "+what, bounds)
		return
	}
	d, problem := parseDuration(v.node.Value)
	switch {
	case problem != "":
		v.fail(problem, bounds)
	case d < lo || d > hi:
		v.fail(v.node.Value+" is out of range", bounds)
	default:
		*dst = d
	}
}

// parseDuration reads 60s, 1m30s or 1.5h, or says what is wrong with the text.
func parseDuration(text string) (d time.Duration, problem string) {
	_, err := time.ParseDuration(text + "s")
	bare := err == nil && strings.Trim(text, "0123456789.") == ""
	switch {
	case isNaN(text):
		return 0, "NaN is not a duration"
	case strings.HasPrefix(text, "-"):
		return 0, shorten(text) + " is negative; a duration is not"
	case bare:
		return 0, "a duration needs a unit; for seconds write " + shorten(text) + "s"
	case strings.ContainsAny(text, " \t"):
		return 0, quote(text) + " has a space in it; write 60s, 1m30s or 500ms"
	}
	d, err = time.ParseDuration(text)
	switch {
	case err == nil && text[0] != '+':
		return d, ""
	case wellFormedDuration(text):
		return 0, shorten(text) + " is longer than can be counted"
	}
	return 0, quote(text) + " is not a duration; the units are ms, s, m and h, as in 500ms, 60s or 1m30s"
}

// wellFormedDuration holds for numbers with known units, however large.
func wellFormedDuration(text string) bool {
	for text != "" {
		rest := strings.TrimLeft(text, "0123456789.")
		unit := rest[:len(rest)-len(strings.TrimLeft(rest, "mshun"))]
		if len(rest) == len(text) || !slices.Contains([]string{"ns", "us", "ms", "s", "m", "h"}, unit) {
			return false
		}
		text = rest[len(unit):]
	}
	return true
}

// formatDuration is Duration.String without its zero units: 1m, not 1m0s.
func formatDuration(d time.Duration) string {
	if d < 0 {
		return "off"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isNaN(s string) bool { return strings.EqualFold(strings.Trim(s, "."), "nan") }

// shorten shows a number or a word from the file, without quotes.
func shorten(s string) string { return strings.Trim(quote(s), `"`) }
