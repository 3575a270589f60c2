package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// value is one value of the file together with the key it stands under. The
// zero value stands for a key that is not in the file.
type value struct {
	p    *parser
	name *yaml.Node // the key; nil for an item of a list and for the root
	node *yaml.Node
	path string
}

// field is one key that a mapping may hold, and what to do with its value.
type field struct {
	key    string
	decode func(value)
}

func (v value) present() bool { return v.node != nil }

// usable reports whether the value may be decoded; otherwise its error was
// reported with the text of the whole file.
func (v value) usable() bool {
	return v.node.Kind != yaml.AliasNode && v.node.Style&yaml.TaggedStyle == 0
}

func (v value) pos() Pos {
	if v.node == nil {
		return Pos{}
	}
	return position(v.node)
}

// namePos is the place of the key.
func (v value) namePos() Pos {
	if v.name == nil {
		return v.pos()
	}
	return position(v.name)
}

func (v value) fail(message, allowed string) { v.p.fail(v.pos(), v.path, message, allowed) }

// failf reports a message without a list of what is allowed.
func (v value) failf(format string, args ...any) { v.fail(fmt.Sprintf(format, args...), "") }

// missing reports that this mapping lacks a key.
func (v value) missing(key, why string) { v.p.fail(v.namePos(), join(v.path, key), why, "") }

// want reports a value of the wrong type.
func (v value) want(what string) {
	if v.node.ShortTag() == "!!null" {
		v.fail("has no value; give it one or remove the key", what)
		return
	}
	v.fail("want "+what+", got "+describe(v.node), "")
}

// mapping decodes a mapping with a fixed set of keys and returns the values it
// holds. Unknown and repeated keys are reported.
func (v value) mapping(fields ...field) map[string]value {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	found := map[string]value{}
	for _, entry := range v.entries("a mapping with the keys " + list(keys)) {
		i := slices.Index(keys, entry.name.Value)
		if i < 0 {
			entry.unknown(keys)
			continue
		}
		found[keys[i]] = entry
		if entry.usable() && fields[i].decode != nil {
			fields[i].decode(entry)
		}
	}
	return found
}

// entries returns the values of a mapping in the order of the file, each key
// once; what says which mapping is wanted here.
func (v value) entries(what string) []value {
	if !v.usable() {
		return nil
	}
	if v.node.Kind != yaml.MappingNode {
		v.want(what)
		return nil
	}
	var entries []value
	first := map[string]Pos{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		entry := value{p: v.p, name: key, node: v.node.Content[i+1]}
		if !v.validKey(key) {
			continue
		}
		entry.path = join(v.path, key.Value)
		if pos, repeated := first[key.Value]; repeated {
			v.p.fail(position(key), entry.path, fmt.Sprintf("this key was given before, at line %d column %d", pos.Line, pos.Column), "")
			continue
		}
		first[key.Value] = position(key)
		entries = append(entries, entry)
	}
	return entries
}

// validKey reports whether a key is one word, and says so if not.
func (v value) validKey(key *yaml.Node) bool {
	switch {
	case key.Kind == yaml.AliasNode || key.Style&yaml.TaggedStyle != 0:
		return false // reported with the text of the whole file
	case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" || key.Value == "":
		v.p.fail(position(key), v.path, "a key must be a word, got "+describe(key), "")
		return false
	}
	return true
}

// unknown reports a key that is not among those allowed.
func (v value) unknown(allowed []string) {
	message := "unknown key"
	if v.name.Value == "<<" {
		message = "merge keys are not supported; a policy inherits what it leaves out from policy default"
	} else if near := nearest(v.name.Value, allowed); near != "" {
		message += "; did you mean " + near + "?"
	}
	v.p.fail(v.namePos(), v.path, message, list(allowed))
}

// items returns the values of a list.
func (v value) items(what string) []value {
	if !v.usable() {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode {
		v.want("a list of " + what)
		return nil
	}
	items := make([]value, 0, len(v.node.Content))
	for i, n := range v.node.Content {
		items = append(items, value{p: v.p, node: n, path: fmt.Sprintf("%s[%d]", v.path, i)})
	}
	return items
}

// itemsOrOne returns the values of a list, or the value itself when it stands
// alone.
func (v value) itemsOrOne(what string) []value {
	if v.node.Kind == yaml.ScalarNode {
		return []value{v}
	}
	return v.items(what)
}

// join extends a key path; a name that would blur it is quoted.
func join(path, name string) string {
	odd := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-@", r)
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, odd) {
		name = quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func (v value) isMapping() bool { return v.node.Kind == yaml.MappingNode }

func (v value) isList() bool { return v.node.Kind == yaml.SequenceNode }
