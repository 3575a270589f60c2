package kmod

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/lastack/lastack/image"
)

// Names of the three lists, in image.ModulesDir.
const (
	OrderFile   = "order"
	DependsFile = "depends"
	AliasesFile = "aliases"
)

// Path is where a module lies on the image of a kernel.
func Path(version string, m *Module) string {
	return path.Join(image.ModulesDir, version, m.File)
}

// Order is the content of the file of that name.
func Order(version string, sets []Chosen) string {
	var b strings.Builder
	for _, s := range sets {
		fmt.Fprintf(&b, "# %s\n", s.Name)
		for _, m := range s.Modules {
			fmt.Fprintln(&b, Path(version, m))
		}
	}
	return b.String()
}

// Depends is the content of the file of that name: for each module all that
// comes before it, also what its own needs need.
func Depends(version string, sets []Chosen) string {
	var b strings.Builder
	needs := map[string][]string{} // by name: paths, in order
	paths := map[string]string{}
	for _, s := range sets {
		for _, m := range s.Modules {
			var all []string
			for _, n := range slices.Concat(m.Depends, m.Softdep) {
				for _, p := range append(slices.Clone(needs[n]), paths[n]) {
					if p != "" && !slices.Contains(all, p) {
						all = append(all, p)
					}
				}
			}
			needs[m.Name], paths[m.Name] = all, Path(version, m)
			fmt.Fprintln(&b, strings.TrimSuffix(paths[m.Name]+": "+strings.Join(all, " "), " "))
		}
	}
	return b.String()
}

// Aliases is the content of the file of that name. Only hardware has a bus
// before a colon; a name such as "fs-ext4" is no hardware.
func Aliases(version string, sets []Chosen) string {
	var b strings.Builder
	for _, s := range sets {
		for _, m := range s.Modules {
			for _, a := range m.Aliases {
				if strings.Contains(a, ":") && !strings.ContainsAny(a, " \n") {
					fmt.Fprintln(&b, a, Path(version, m))
				}
			}
		}
	}
	return b.String()
}
