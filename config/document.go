package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

const (
	// maxSize bounds the file: the largest sensible one, thousands of
	// services, stays well below.
	maxSize = 1 << 20
	// maxDepth bounds nesting; a configuration needs 5 levels.
	maxDepth = 32
)

// parser collects what one file says and everything that is wrong with it.
type parser struct {
	file     string
	lines    []string
	errs     Errors
	warnings []Error
}

func (p *parser) fail(pos Pos, key, message, allowed string) {
	p.errs = append(p.errs, p.at(pos, key, message, allowed))
}

func (p *parser) warn(pos Pos, key, message string) {
	p.warnings = append(p.warnings, p.at(pos, key, message, ""))
}

func (p *parser) at(pos Pos, key, message, allowed string) Error {
	e := Error{File: p.file, Pos: pos, Key: visible(key), Message: visible(message), Allowed: visible(allowed)}
	if pos.Line >= 1 && pos.Line <= len(p.lines) {
		e.Source = p.lines[pos.Line-1]
	}
	return e
}

// document turns the text into the root node of its only document, or
// returns nil after reporting why there is none.
func (p *parser) document(data []byte) *yaml.Node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(data) > maxSize {
		p.fail(Pos{}, "", fmt.Sprintf("the file is larger than %d KiB", maxSize>>10), "")
		return nil
	}
	p.lines = strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data)), "\n")
	if !p.plainText() {
		return nil
	}
	root := p.load(data)
	if root == nil {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		p.fail(position(root), "", "the file must be a mapping of sections, got "+describe(root), list(sections))
		return nil
	}
	p.refuseIndirection(root)
	return root
}

// plainText reports the first character that YAML, an editor and we might
// disagree about. The YAML package refuses most of them too, without a place.
func (p *parser) plainText() bool {
	for i, line := range p.lines {
		column := 1
		for rest := line; rest != ""; column++ {
			r, size := utf8.DecodeRuneInString(rest)
			pos := Pos{Line: i + 1, Column: column}
			switch {
			case r == utf8.RuneError && size == 1:
				p.lines[i] = visible(line)
				p.fail(pos, "", "the file is not UTF-8 text", "")
				return false
			case invisible(r):
				p.lines[i] = visible(line)
				p.fail(pos, "", fmt.Sprintf("invisible character %U is not allowed", r), "")
				return false
			}
			rest = rest[size:]
		}
	}
	return true
}

// invisible holds for control characters, Unicode's own line breaks, the byte
// order mark and the direction marks that make a line read as another.
func invisible(r rune) bool {
	switch {
	case r < ' ':
		return r != '\t'
	case r >= 0x7f && r <= 0x9f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return r == 0xfeff || r == 0xfffe || r == 0xffff
}

// visible makes a text of the file safe for a terminal.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if invisible(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// load parses the YAML and insists on exactly one document.
func (p *parser) load(data []byte) *yaml.Node {
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		p.syntax(err)
		return nil
	}
	var first, second yaml.Node
	switch err := loader.Load(&first); {
	case errors.Is(err, io.EOF):
		p.fail(Pos{}, "", "the file is empty", list(sections))
		return nil
	case err != nil:
		p.syntax(err)
		return nil
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p.syntax(err)
		return nil
	default:
		p.fail(position(&second), "", "a second document starts here; a configuration is one document", "")
		return nil
	}
	if len(first.Content) == 0 {
		p.fail(Pos{}, "", "the file is empty", list(sections))
		return nil
	}
	return first.Content[0]
}

// syntax reports an error of the YAML package in our form.
func (p *parser) syntax(err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		p.fail(Pos{}, "", "not valid YAML: "+err.Error(), "")
		return
	}
	pos := Pos{Line: load.Mark.Line, Column: load.Mark.Column}
	start := Pos{Line: load.ContextMark.Line, Column: load.ContextMark.Column}
	message := "not valid YAML: " + load.Message
	if load.ContextMsg != "" {
		message += " " + load.ContextMsg
		if start.Line > 0 && start.Line != pos.Line {
			message += fmt.Sprintf(" that starts at line %d", start.Line)
		}
	}
	if start.Line > 0 && p.blankFrom(pos.Line) { // the end of the file shows nothing
		pos = start
	}
	p.fail(pos, "", message+p.hint(pos, load.Message), "")
}

// blankFrom reports whether nothing follows from that line on.
func (p *parser) blankFrom(line int) bool {
	for i := max(line-1, 0); i < len(p.lines); i++ {
		if strings.TrimSpace(p.lines[i]) != "" {
			return false
		}
	}
	return true
}

// hint names the likely cause of a syntax error.
func (p *parser) hint(pos Pos, message string) string {
	if pos.Line < 1 || pos.Line > len(p.lines) {
		return ""
	}
	line := p.lines[pos.Line-1]
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(message, "max depth"):
		return "; a configuration needs no such nesting"
	case strings.Contains(indent, "\t"):
		return "; indent with spaces, not with a tab"
	case strings.Contains(line, "]:"):
		return `; an IPv6 address with a port needs quotes, as in "[2001:db8::10]:443"`
	}
	return ""
}

// refuseIndirection reports anchors, aliases and explicit tags: whoever reads
// a line of the file should see what it means.
func (p *parser) refuseIndirection(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		p.fail(position(n), "", "alias *"+n.Value+" is not supported; write the value again (a policy inherits what it leaves out from policy default)", "")
		return // what it points to is reported at its own place
	case n.Anchor != "":
		p.fail(position(n), "", "anchor &"+n.Anchor+" is not supported; write the value where it is needed", "")
	case n.Style&yaml.TaggedStyle != 0:
		p.fail(position(n), "", "tag "+n.Tag+" is not supported; write the plain value", "")
	}
	for _, child := range n.Content {
		p.refuseIndirection(child)
	}
}

func position(n *yaml.Node) Pos { return Pos{Line: n.Line, Column: n.Column} }

// describe names what stands at a node, for "got ..." in a message.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "no value"
	case "!!int", "!!float":
		return "the number " + strings.Trim(quote(n.Value), `"`)
	case "!!bool":
		return n.Value
	}
	return "the text " + quote(n.Value)
}
