package config

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// Change is one key whose effective value differs between two configurations.
type Change struct {
	Key string `json:"key"` // "services.web.backends"
	Old string `json:"old"` // as in the file; "" if it was not there
	New string `json:"new"` // "" if it is there no more
}

// Section is the first part of the key: interfaces, policies, ...
func (c Change) Section() string {
	section, _, _ := strings.Cut(c.Key, ".")
	return section
}

// Name is the second part: of an interface, a policy, a service.
func (c Change) Name() string {
	_, rest, _ := strings.Cut(c.Key, ".")
	name, _, _ := strings.Cut(rest, ".")
	return name
}

// Diff lists what differs, with defaults filled in, in the order of the effective
// configurations. The order of services in the file is none.
func Diff(old, next *Config) ([]Change, error) {
	before, err := old.flat()
	if err != nil {
		return nil, err
	}
	after, err := next.flat()
	if err != nil {
		return nil, err
	}
	var all []Change
	was := map[string]string{}
	for _, e := range before {
		was[e.key] = e.text
	}
	is := map[string]bool{}
	for _, e := range after {
		is[e.key] = true
		if text, known := was[e.key]; !known || text != e.text {
			all = append(all, Change{Key: e.key, Old: text, New: e.text})
		}
	}
	for _, e := range before {
		if !is[e.key] {
			all = append(all, Change{Key: e.key, Old: e.text})
		}
	}
	return all, nil
}

// leaf is a value that is no mapping.
type leaf struct{ key, text string }

// flat lists the leaves of the effective configuration.
func (c *Config) flat() ([]leaf, error) {
	text, err := c.Effective()
	if err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	var all []leaf
	var walk func(key string, n *yaml.Node) error
	walk = func(key string, n *yaml.Node) error {
		switch n.Kind {
		case yaml.DocumentNode:
			return walk(key, n.Content[0])
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if err := walk(join(key, n.Content[i].Value), n.Content[i+1]); err != nil {
					return err
				}
			}
			if len(n.Content) == 0 {
				all = append(all, leaf{key, "{}"})
			}
			return nil
		}
		text, err := yaml.Dump(n)
		all = append(all, leaf{key, strings.TrimSpace(string(text))})
		return err
	}
	return all, walk("", &root)
}
