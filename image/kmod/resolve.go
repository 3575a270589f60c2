package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Set is a group of modules with a purpose.
type Set struct {
	Name    string
	Modules []string
}

// Chosen is a set with all that its modules need, in load order; what an
// earlier set holds already is not there again.
type Chosen struct {
	Name    string
	Modules []*Module
}

// tree is a kernel's directory of modules.
type tree struct {
	fsys    fs.FS
	version string
	files   map[string]string // by canonical name
	builtin map[string]bool
	loaded  map[string]*Module
	placed  map[string]bool
}

// Resolve finds the modules of sets in fsys, a kernel's lib/modules/VERSION.
// What is built into the kernel needs no file. A module that is neither is an
// error: an image without it would not do what the set promises.
func Resolve(fsys fs.FS, version string, sets []Set) ([]Chosen, error) {
	t, err := openTree(fsys, version)
	if err != nil {
		return nil, err
	}
	var all []Chosen
	var errs []error
	for _, s := range sets {
		c := Chosen{Name: s.Name}
		for _, name := range s.Modules {
			if err := t.place(&c, canonical(name), nil); err != nil {
				errs = append(errs, fmt.Errorf("module %s of set %s: %w", name, s.Name, err))
			}
		}
		all = append(all, c)
	}
	return all, errors.Join(errs...)
}

func openTree(fsys fs.FS, version string) (*tree, error) {
	t := &tree{fsys: fsys, version: version, files: map[string]string{}, builtin: map[string]bool{}, loaded: map[string]*Module{}, placed: map[string]bool{}}
	list, err := fs.ReadFile(fsys, "modules.builtin")
	if err != nil {
		return nil, fmt.Errorf("read the modules of kernel %s: %w", version, err)
	}
	for line := range strings.FieldsSeq(string(list)) {
		t.builtin[canonical(line)] = true
	}
	err = fs.WalkDir(fsys, "kernel", func(p string, d fs.DirEntry, err error) error {
		if err == nil && path.Ext(p) == ".ko" {
			t.files[canonical(p)] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the modules of kernel %s: %w", version, err)
	}
	return t, nil
}

var errNoModule = errors.New("the kernel has no such module")

// place appends a module and, before it, what it needs. way is the chain of
// names that led here.
func (t *tree) place(c *Chosen, name string, way []string) error {
	if t.placed[name] || t.builtin[name] {
		return nil
	}
	if slices.Contains(way, name) {
		return fmt.Errorf("it needs itself: %s", strings.Join(append(way, name), " -> "))
	}
	m, err := t.module(name)
	if err != nil {
		return err
	}
	way = append(way, name)
	for _, need := range m.Depends {
		if err := t.place(c, need, way); err != nil {
			return fmt.Errorf("%s: %w", need, err)
		}
	}
	wishes := m.Softdep
	m.Softdep = nil
	for _, wish := range wishes {
		found := t.wish(wish)
		if found == "" || slices.Contains(way, found) {
			continue // this kernel doesn't have it, or it wishes for us
		}
		if err := t.place(c, found, way); err != nil {
			return fmt.Errorf("%s: %w", found, err)
		}
		m.Softdep = append(m.Softdep, found)
	}
	t.placed[name] = true
	c.Modules = append(c.Modules, m)
	return nil
}

// wish is the module that a soft dependency means, "" if there is none. It may
// be an alias: ext4 asks for "crc32c", which is crc32c_generic.
func (t *tree) wish(name string) string {
	for _, try := range []string{name, name + "_generic"} {
		if _, there := t.files[try]; there || t.builtin[try] {
			return try
		}
	}
	return ""
}

func (t *tree) module(name string) (*Module, error) {
	if m := t.loaded[name]; m != nil {
		return m, nil
	}
	p, ok := t.files[name]
	if !ok {
		return nil, errNoModule
	}
	data, err := fs.ReadFile(t.fsys, p)
	if err != nil {
		return nil, err
	}
	m, err := parse(p, data)
	if err != nil {
		return nil, err
	}
	if m.Magic != t.version {
		return nil, fmt.Errorf("it is built for kernel %s, not for %s", m.Magic, t.version)
	}
	t.loaded[name] = m
	return m, nil
}
