package image

import (
	_ "embed"
	"slices"
)

//go:embed default.yaml
var defaultConfig []byte

// DefaultConfig is what a box starts with that nobody has given a configuration.
func DefaultConfig() []byte { return slices.Clone(defaultConfig) }
