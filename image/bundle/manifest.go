package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// form is the form of the manifest; a box refuses one it does not know.
const form = 1

// Release names one state of the firmware. An image holds its own as JSON in
// ReleaseFile.
type Release struct {
	Version string `json:"version"` // for people
	Build   uint64 `json:"build"`   // grows from release to release
	Arch    string `json:"arch"`    // "amd64" or "arm64", as Go spells it
	Kernel  string `json:"kernel"`  // as uname -r
}

// ReleaseFile is where the running system's Release is.
const ReleaseFile = "/etc/lastack/version"

// String is for people.
func (r Release) String() string { return fmt.Sprintf("%s (build %d)", r.Version, r.Build) }

// Manifest is what the signature is about.
type Manifest struct {
	Form int `json:"form"`
	Release
	MinFrom uint64 `json:"min_from,omitempty"` // the oldest build that may be updated to this one
	Options string `json:"options,omitempty"`  // kernel command line; "" keeps the one of the box
	Files   []File `json:"files"`              // Kernel and Initrd, in this order
}

// File is one of a slot's files.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // 64 hexadecimal digits
}

// The files of a slot.
const (
	Kernel = "vmlinuz"
	Initrd = "initrd"
)

// maxFile bounds a file: FAT32 and a 32-bit loader end at 4 GiB, no slot is near.
const maxFile = 1 << 30

var sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Size is how many bytes the files have together.
func (m Manifest) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// decode reads a manifest whose signature is known to be good.
func decode(text []byte) (m Manifest, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	return m, m.check()
}

func (m Manifest) check() error {
	switch {
	case m.Form != form:
		return fmt.Errorf("the bundle is of form %d and this firmware knows form %d: update to a release in between first", m.Form, form)
	case m.Version == "" || m.Build == 0 || m.Arch == "":
		return errors.New("the manifest lacks version, build or architecture")
	case strings.ContainsAny(m.Version+m.Arch+m.Release.Kernel+m.Options, "\r\n\x00"):
		return errors.New("the manifest has a line break where none belongs")
	case len(m.Files) != 2 || m.Files[0].Name != Kernel || m.Files[1].Name != Initrd:
		return fmt.Errorf("the manifest must name %s and %s, in this order", Kernel, Initrd)
	}
	for _, f := range m.Files {
		if f.Size < 1 || f.Size > maxFile || !sum.MatchString(f.SHA256) {
			return fmt.Errorf("the manifest gives no usable size or hash of %s", f.Name)
		}
	}
	return nil
}
