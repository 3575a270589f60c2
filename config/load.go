package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// sections are the keys of the file.
var sections = []string{"interfaces", "policies", "services", "drain", "admin", "state", "carried", "time"}

// Load reads and checks a file. The error is an Errors with everything that is
// wrong with it.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err // the path is said already
		}
		return nil, Errors{{File: path, Message: fmt.Sprintf("read the configuration: %v", err)}}
	}
	return Parse(path, data)
}

// read stops after the largest size that Parse takes, so that a wrong path to
// a device or a disk image does no harm.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// Parse checks the text of a file; name is what errors call it. The error is
// an Errors with everything that is wrong.
func Parse(name string, data []byte) (*Config, error) {
	p := &parser{file: name}
	c := &Config{File: name, Text: data}
	if root := p.document(data); root != nil {
		p.config(c, value{p: p, node: root})
	}
	if len(p.errs) > 0 {
		return nil, p.errs.sorted()
	}
	slices.SortStableFunc(p.warnings, byPlace)
	c.warnings = p.warnings
	return c, nil
}

// config decodes the sections in the order in which they refer to each other,
// whatever their order in the file.
func (p *parser) config(c *Config, root value) {
	fields := make([]field, len(sections))
	for i, name := range sections {
		fields[i] = field{key: name}
	}
	found := root.mapping(fields...)

	net := p.interfaces(root, found["interfaces"])
	c.Interfaces = net.interfaces
	c.Policies = p.policies(found["policies"])
	c.Services = p.services(found["services"], &net, c.Policies)
	c.Drain = p.drain(found["drain"])
	c.Admin = p.admin(found["admin"], &net, c.Services)
	c.State = p.state(found["state"])
	c.Carried = p.carried(found["carried"])
	c.Time = p.time(found["time"])
}
