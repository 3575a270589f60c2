package proxy

import (
	"sync"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

// Proxy is a service that relays each connection to one of its backends.
type Proxy struct {
	*services.Server
	config   config.Service
	halfFor  time.Duration // policy half_close; 0 or less is no limit
	finFor   time.Duration // policy fin_wait2, likewise
	abortive bool          // policy linger is 0s: what we end is reset
	net      services.Network
	pool     *Pool
	turning  sync.Mutex // held while a backend's drain starts or is taken back
}

var _ services.Service = (*Proxy)(nil)

// New makes a proxy that isn't listening yet.
func New(c config.Service, p config.Policy, env services.Env) *Proxy {
	x := &Proxy{config: c, halfFor: p.HalfClose, finFor: p.FinWait2, abortive: p.AbortiveClose, net: env.Network}
	x.Server = services.NewServer(c, p, env, x.open)
	x.pool = newPool(c.Backends, c.ConnectTimeout, x.Log())
	return x
}

// Backends describes the backends, in the order of the configuration.
func (x *Proxy) Backends() []BackendRow { return x.pool.rows() }

func (x *Proxy) open() (*services.Session, services.Runner) {
	p := &pair{proxy: x}
	p.up = services.Pipe{From: &p.Client, To: &p.Backend}
	p.down = services.Pipe{From: &p.Backend, To: &p.Client}
	if x.config.Heartbeat.Enabled() {
		p.beat(&x.config.Heartbeat)
	}
	return &p.Session, p
}
