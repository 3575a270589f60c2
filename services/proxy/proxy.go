package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

// Proxy is a service that relays each connection to one of its backends.
type Proxy struct {
	*services.Server
	net     services.Network
	pool    atomic.Pointer[Pool]
	mode    atomic.Pointer[mode]    // how new connections are carried
	spared  atomic.Pointer[Backend] // chosen, and not dialled yet
	turning sync.Mutex              // held while the pool changes, or a backend's drain starts or is taken back
}

var _ services.Service = (*Proxy)(nil)

// New makes a proxy that isn't listening yet.
func New(c config.Service, p config.Policy, env services.Env) *Proxy {
	x := &Proxy{net: env.Network}
	x.Server = services.NewServer(c, p, env, x.open)
	x.pool.Store(newPool(c.Backends, c.ConnectTimeout, x.Log()))
	x.mode.Store(x.modeNow())
	return x
}

// Start implements services.Service.
func (x *Proxy) Start() error {
	x.own()
	if err := x.Server.Start(); err != nil {
		return err
	}
	x.CarryAll(x.mode.Load().by)
	return nil
}

// conf is what the configuration says of the proxy now.
func (x *Proxy) conf() *config.Service { return &x.Settings().Service }

// halfFor and finFor are the policy's half_close and fin_wait2; 0 or less is no
// limit.
func (x *Proxy) halfFor() time.Duration { return x.Settings().Policy.HalfClose }
func (x *Proxy) finFor() time.Duration  { return x.Settings().Policy.FinWait2 }

// Backends describes the backends, in the order of the configuration.
func (x *Proxy) Backends() []BackendRow { return x.pool.Load().rows() }

// Update implements services.Service: connections to a backend that is there no
// more drain.
func (x *Proxy) Update(c config.Service, p config.Policy, how config.Drain) error {
	x.turning.Lock()
	defer x.turning.Unlock()
	if err := x.Server.Update(c, p); err != nil {
		return err
	}
	old := x.pool.Load()
	for !x.pool.CompareAndSwap(old, old.with(c.Backends, c.ConnectTimeout)) { // see backend
		old = x.pool.Load()
	}
	x.mode.Store(x.modeNow())
	x.own()
	x.CarryAll(x.mode.Load().by)
	for _, b := range old.gone { // it is back, and so are its connections
		if plan := b.plan.Load(); plan != nil && slices.Contains(c.Backends, b.addr) {
			b.plan.Store(nil)
			x.TakeBack(plan, b.addr)
		}
	}
	for _, b := range old.backends {
		if !slices.Contains(c.Backends, b.addr) && b.plan.Load() == nil {
			plan := x.PlanFor(b.addr, how, "reload")
			b.plan.Store(plan)
			x.Assign(plan, b.addr)
		}
	}
	return nil
}

func (x *Proxy) open() (*services.Session, services.Runner) {
	p := &pair{proxy: x}
	p.Relays(x.mode.Load().why)
	p.up = services.Pipe{From: &p.Client, To: &p.Backend}
	p.down = services.Pipe{From: &p.Backend, To: &p.Client}
	if h := &x.conf().Heartbeat; h.Enabled() {
		p.beat(h)
	}
	return &p.Session, p
}
