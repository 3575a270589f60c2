package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// modules are the kernel's that the initramfs carries, in three lists: order
// (load order, in sets), depends (what each needs) and aliases (which hardware
// each is for).
type modules struct {
	root    string
	sets    map[string][]string // paths in load order
	names   []string            // of the sets, in order
	depends map[string][]string
	aliases map[string][]alias // by bus, the part before the colon
	loaded  map[string]bool
	insert  func(path string) error
	after   func() // each one
}

// alias says which hardware a module is for.
type alias struct{ pattern, module string }

// readModules reads the lists in root/lib/modules. Without them it is an empty set.
func readModules(root string, insert func(string) error, after func()) (*modules, error) {
	m := &modules{root: root, sets: make(map[string][]string), depends: make(map[string][]string), aliases: make(map[string][]alias),
		loaded: make(map[string]bool), insert: insert, after: after}
	set := ""
	err := m.lines("order", func(line string) {
		if name, ok := strings.CutPrefix(line, "# "); ok {
			set = name
			return
		}
		if !slices.Contains(m.names, set) {
			m.names = append(m.names, set)
		}
		m.sets[set] = append(m.sets[set], line)
	})
	err = errors.Join(err, m.lines("depends", func(line string) {
		module, needs, _ := strings.Cut(line, ":")
		m.depends[module] = strings.Fields(needs)
	}), m.lines("aliases", func(line string) {
		pattern, module, _ := strings.Cut(line, " ")
		bus, _, _ := strings.Cut(pattern, ":")
		m.aliases[bus] = append(m.aliases[bus], alias{pattern, module})
	}))
	return m, err
}

func (m *modules) lines(name string, each func(string)) error {
	f, err := os.Open(filepath.Join(m.root, "lib/modules", name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the list of modules: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			each(line)
		}
	}
	return s.Err()
}

// loadSet loads a set whole. A driver whose hardware is absent is no error.
func (m *modules) loadSet(name string) error {
	var errs []error
	for _, one := range m.sets[name] {
		errs = append(errs, m.load(one))
	}
	return errors.Join(errs...)
}

func (m *modules) load(file string) error {
	if m.loaded[file] {
		return nil
	}
	m.loaded[file] = true
	for _, need := range m.depends[file] {
		if err := m.load(need); err != nil {
			return err
		}
	}
	err := m.insert(filepath.Join(m.root, file))
	m.after()
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("load %s: %w", path.Base(file), err)
	}
	return nil
}

// coldplug loads what the hardware of root/sys/devices asks for, and reports
// how many modules that were. Drivers make new devices: call it until it finds none.
func (m *modules) coldplug() (n int, err error) {
	wanted := make(map[string]bool)
	walk := filepath.WalkDir(filepath.Join(m.root, "sys/devices"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "modalias" {
			return nil // a device may go while we look
		}
		name, err := readLine(file)
		if err != nil || name == "" {
			return nil
		}
		bus, _, _ := strings.Cut(name, ":")
		for _, a := range m.aliases[bus] {
			if !m.loaded[a.module] && glob(a.pattern, name) {
				wanted[a.module] = true
			}
		}
		return nil
	})
	var errs []error
	for _, set := range m.names { // in their order, so that cards get the same names each time
		for _, file := range m.sets[set] {
			if wanted[file] {
				n++
				errs = append(errs, m.load(file))
			}
		}
	}
	return n, errors.Join(append(errs, walk)...)
}

// glob matches as the kernel's aliases do: * and ? and sets in brackets. Unlike
// path.Match, * takes a slash too.
func glob(pattern, s string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x01"), strings.ReplaceAll(s, "/", "\x01"))
	return ok && err == nil
}

// insertModule is finit_module(2).
func insertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// loadModules loads the base set and the watchdogs, and then what the hardware
// asks for. Afterwards the box may lack something, and says what.
func (b *Box) loadModules() {
	m, err := readModules(b.root, b.insert, b.arm)
	b.modules = m
	b.warn("modules", err)
	for _, set := range []string{"watchdog", "base"} {
		b.warn("modules", m.loadSet(set))
	}
	b.coldplug()
	b.log.Info("modules loaded", "modules", len(m.loaded))
}

func (b *Box) coldplug() {
	for range 10 { // buses behind buses
		n, err := b.modules.coldplug()
		b.warn("modules", err)
		if n == 0 {
			return
		}
	}
}

// forgetModules gives 27 MB back: the files of the initramfs are in memory, and
// after the boot no more drivers are loaded.
func (b *Box) forgetModules() {
	b.warn("modules", os.RemoveAll(b.path("lib/modules")))
}
