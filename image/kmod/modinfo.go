package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"strings"
)

// Module is one module file.
type Module struct {
	Name    string // with underscores, as /proc/modules shows it
	File    string // base name, as virtio_net.ko
	Data    []byte
	Depends []string // names of modules whose symbols it uses
	Softdep []string // names that should be there before it; once resolved, those that are
	Aliases []string // patterns of hardware, and other names
	Magic   string   // vermagic: the kernel it was built for
	License string
}

// canonical is a module's name in one spelling: file names have dashes where
// the kernel has underscores.
func canonical(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// parse reads the .modinfo section of a module.
func parse(file string, data []byte) (*Module, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("read module %s: it has no .modinfo section", file)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	m := &Module{Name: canonical(file), File: path.Base(file), Data: data}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, ok := strings.Cut(field, "=")
		if ok {
			m.note(key, value)
		}
	}
	return m, nil
}

func (m *Module) note(key, value string) {
	switch key {
	case "depends":
		for name := range strings.SplitSeq(value, ",") {
			if name != "" {
				m.Depends = append(m.Depends, canonical(name))
			}
		}
	case "softdep":
		m.Softdep = append(m.Softdep, preNames(value)...)
	case "alias":
		m.Aliases = append(m.Aliases, value)
	case "vermagic":
		m.Magic, _, _ = strings.Cut(value, " ")
	case "license":
		m.License = value
	}
}

// preNames are the names behind "pre:" (modprobe.d(5)); those behind "post:"
// may come whenever they like.
func preNames(value string) []string {
	var names []string
	pre := false
	for word := range strings.FieldsSeq(value) {
		switch {
		case strings.HasSuffix(word, ":"):
			pre = word == "pre:"
		case pre:
			names = append(names, canonical(word))
		}
	}
	return names
}
