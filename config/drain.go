package config

import (
	"fmt"
	"time"
)

// DefaultDrain returns how the process stops when the file doesn't say.
func DefaultDrain() Drain {
	return Drain{Deadline: 30 * time.Second, FinGrace: 5 * time.Second, LingerRead: 5 * time.Second, Max: 35 * time.Second, Refuse: "rst"}
}

// DrainCauses are what a drain may be for; each may have a profile.
var DrainCauses = []string{"shutdown", "reload", "upgrade", "backend", "maintenance"}

// For is how a drain for a cause goes.
func (d Drain) For(cause string) Drain {
	if p, ok := d.Profiles[cause]; ok {
		return p
	}
	return d
}

// DefaultSocket is where the daemon answers when the file doesn't say.
const DefaultSocket = "/run/appliance.sock"

func (p *parser) drain(v value) Drain {
	d := DefaultDrain()
	if !v.present() {
		return d
	}
	var profiles value
	v.drainKeys(&d, field{"profiles", func(v value) { profiles = v }})
	if !profiles.present() {
		return d
	}
	d.Profiles = make(map[string]Drain)
	var causes []field
	for _, cause := range DrainCauses {
		causes = append(causes, field{cause, func(v value) {
			one := d // a profile says what is different
			one.Profiles = nil
			v.drainKeys(&one)
			d.Profiles[cause] = one
		}})
	}
	profiles.mapping(causes...)
	return d
}

// drainKeys decodes what a drain and a profile have in common. What follows
// from deadline and fin_grace follows from those given here.
func (v value) drainKeys(d *Drain, more ...field) {
	found := v.mapping(append([]field{
		{"announce", func(v value) { v.duration(&d.Announce, 0, day) }},
		{"deadline", func(v value) { v.duration(&d.Deadline, shortest, day) }},
		{"fin_grace", func(v value) { v.duration(&d.FinGrace, shortest, day) }},
		{"linger_read", func(v value) { v.duration(&d.LingerRead, 0, day) }},
		{"min", func(v value) { v.duration(&d.Min, 0, day) }},
		{"max", func(v value) { v.duration(&d.Max, shortest, day) }},
		{"spread", func(v value) { v.duration(&d.Spread, 0, day) }},
		{"refuse", func(v value) { v.oneOf(&d.Refuse, "rst", "silence") }},
	}, more...)...)
	_, deadline := found["deadline"]
	grace := found["fin_grace"].present()
	if !found["linger_read"].present() && grace {
		d.LingerRead = d.FinGrace
	}
	if !found["max"].present() && (deadline || grace) {
		d.Max = d.Deadline + d.FinGrace
	}
	// A profile answers only for what it says itself.
	wrong := func(key, other, format string, args ...any) {
		switch {
		case found[key].present():
			found[key].failf(format, args...)
		case found[other].present():
			v.fail(key+" is "+fmt.Sprintf(format, args...), "")
		}
	}
	if d.LingerRead > d.FinGrace {
		wrong("linger_read", "fin_grace", "%s, longer than fin_grace, %s: by then the peer is reset", d.LingerRead, d.FinGrace)
	}
	if d.Spread > d.Deadline {
		wrong("spread", "deadline", "%s, longer than the deadline, %s", d.Spread, d.Deadline)
	}
	if d.Max < d.FinGrace {
		wrong("max", "fin_grace", "%s, shorter than fin_grace, %s, which the last peers get", d.Max, d.FinGrace)
	}
	if d.Min > d.Max {
		wrong("min", "max", "%s, longer than max, %s", d.Min, d.Max)
	}
}
