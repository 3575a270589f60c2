package build

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/lastack/lastack/image/disk"
)

// Part is one thing in an image and what it weighs.
type Part struct {
	Name string `json:"name"`
	Size int64  `json:"bytes"`
	Note string `json:"note,omitempty"`
}

// Report says what is in an image.
type Report struct {
	Parts []Part `json:"parts"`
}

func (p *parts) report(files []disk.File) *Report {
	r := &Report{}
	r.add("appliance", len(p.system.Binary), "in the initramfs, before compression")
	r.add("e2fsck", len(p.system.Fsck), "in the initramfs, before compression")
	for _, s := range p.system.Modules {
		size := 0
		for _, m := range s.Modules {
			size += len(m.Data)
		}
		r.add("modules "+s.Name, size, fmt.Sprintf("%d files, before compression", len(s.Modules)))
	}
	for _, f := range files {
		r.add(f.Path, len(f.Data), "")
	}
	return r
}

func (r *Report) add(name string, size int, note string) {
	r.Parts = append(r.Parts, Part{Name: name, Size: int64(size), Note: note})
}

// Print writes the report for a person.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range r.Parts {
		fmt.Fprintf(t, "%s\t%8.2f MB\t%s\n", p.Name, float64(p.Size)/1e6, p.Note)
	}
	return t.Flush()
}
