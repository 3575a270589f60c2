package diag

import (
	"fmt"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

// Diag is one of the diagnostic services.
type Diag struct {
	*services.Server
	speak speaker
	// endless: it talks as long as the client listens, so a drain doesn't wait
	// for it to be quiet.
	endless bool
	serving func() bool // of health
}

var _ services.Service = (*Diag)(nil)

// speaker says what a service sends, as far as the connection takes it now.
type speaker func(*talk) spoken

// spoken is what a speaker did.
type spoken struct {
	bytes int
	more  bool // its turn is over and it has more to say
	err   error
}

// New makes the service that c.Type names; it isn't listening yet.
func New(c config.Service, p config.Policy, env services.Env) (*Diag, error) {
	d := &Diag{serving: env.Serving}
	switch c.Type {
	case "echo":
	case "discard":
		d.speak = discard
	case "daytime":
		d.speak = daytime
	case "chargen":
		d.speak, d.endless = newPattern().speak, true
	case "health":
		d.speak = health
	default:
		return nil, fmt.Errorf("service %s: type %q is no diagnostic service", c.Name, c.Type)
	}
	d.Server = services.NewServer(c, p, env, d.open)
	return d, nil
}

// Update implements services.Service.
func (d *Diag) Update(c config.Service, p config.Policy, _ config.Drain) error {
	return d.Server.Update(c, p)
}

func (d *Diag) open() (*services.Session, services.Runner) {
	t := &talk{diag: d}
	t.in = services.Pipe{From: &t.Client}
	t.out = services.Pipe{To: &t.Client}
	if h := &d.Settings().Service.Heartbeat; h.Enabled() {
		t.Client.Beat = services.NewBeat(h)
	}
	if d.speak == nil {
		t.in.To = &t.Client // what comes in goes out: echo
	}
	return &t.Session, t
}
