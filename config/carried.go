package config

// DefaultCarried returns the bound when the file doesn't say: some 130 MB, as
// much as time_wait.max of one policy.
func DefaultCarried() Carried { return Carried{Max: 262144, Full: "refuse"} }

func (p *parser) carried(v value) Carried {
	c := DefaultCarried()
	if !v.present() {
		return c
	}
	v.mapping(
		field{"max", func(v value) { v.integer(&c.Max, 1, 16777216) }},
		field{"full", func(v value) { v.oneOf(&c.Full, "refuse", "relay", "oldest") }},
	)
	return c
}
