// Package lock holds what an image is made of that is not ours: the Debian
// packages of the kernel and the boot loader, by version and SHA-256, so that
// the same commit gives the same image.
//
// It has no goroutines and no state.
package lock

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lastack/lastack/image"
)

// Role is what a package is for.
type Role string

// The roles, one package each per architecture.
const (
	Kernel Role = "kernel"
	Loader Role = "loader"
	Fsck   Role = "fsck" // e2fsck without libraries
)

// Roles are all of them.
func Roles() []Role { return []Role{Kernel, Loader, Fsck} }

// Package is one Debian package.
type Package struct {
	Role    Role       `json:"role"`
	Name    string     `json:"name"`
	Version string     `json:"version"`
	Arch    image.Arch `json:"arch"`
	SHA256  string     `json:"sha256"`
	Size    int64      `json:"size"` // bytes
	Path    string     `json:"path"` // on a mirror, as pool/main/...
	Source  string     `json:"source"`
}

// File is a lock file.
type File struct {
	Comment  string    `json:"comment"`
	Suite    string    `json:"suite"`
	Packages []Package `json:"packages"`
}

//go:embed packages.lock
var builtIn []byte

// Default is the lock file that this binary was built with.
func Default() (*File, error) { return Parse(builtIn) }

// Parse reads a lock file. Its errors name the package.
func Parse(data []byte) (*File, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("read the lock file: %w", err)
	}
	var errs []error
	if f.Suite == "" {
		errs = append(errs, errors.New("lock file: suite is missing"))
	}
	for _, p := range f.Packages {
		errs = append(errs, p.validate())
	}
	return &f, errors.Join(errs...)
}

func (p Package) validate() error {
	_, err := image.ParseArch(string(p.Arch))
	switch {
	case p.Name == "" || p.Version == "" || strings.ContainsAny(p.Name+p.Version, "/ "):
		return fmt.Errorf("lock file: a package needs a name and a version, not %q and %q", p.Name, p.Version)
	case err != nil:
		return fmt.Errorf("lock file: %s: %w", p.Name, err)
	case !slices.Contains(Roles(), p.Role):
		return fmt.Errorf("lock file: %s: role %q is none of %v", p.Name, p.Role, Roles())
	case len(p.SHA256) != 64 || strings.Trim(p.SHA256, "0123456789abcdef") != "":
		return fmt.Errorf("lock file: %s: sha256 is not 64 digits", p.Name)
	}
	return nil
}

// Marshal is the content of the file, as Parse reads it.
func (f *File) Marshal() ([]byte, error) {
	out, err := json.MarshalIndent(f, "", "  ")
	return append(out, '\n'), err
}

// Sort brings the packages into the order of the file.
func (f *File) Sort() {
	slices.SortFunc(f.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Role, b.Role))
	})
}

// Find is the package with a role on an architecture.
func (f *File) Find(r Role, a image.Arch) (Package, error) {
	for _, p := range f.Packages {
		if p.Role == r && p.Arch == a {
			return p, nil
		}
	}
	return Package{}, fmt.Errorf("the lock file has no %s for %s", r, a)
}

// FileName is what Debian calls the file; a colon in a version is escaped.
func (p Package) FileName() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
}

// KernelVersion is what uname -r says under this kernel package.
func (p Package) KernelVersion() string { return strings.TrimPrefix(p.Name, "linux-image-") }
