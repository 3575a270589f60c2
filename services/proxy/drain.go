package proxy

import (
	"net/netip"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

var _ services.BackendDrainer = (*Proxy)(nil)

// HasBackend reports whether the proxy has the backend.
func (x *Proxy) HasBackend(addr netip.AddrPort) bool { return x.pool.Load().find(addr) != nil }

// BackendAddrs are the addresses of all backends.
func (x *Proxy) BackendAddrs() []netip.AddrPort { return x.conf().Backends }

// DrainBackend gives the backend no new connections and lets its own end, until
// UndrainBackend. It returns a *services.DrainingError if it drains already.
func (x *Proxy) DrainBackend(addr netip.AddrPort, d config.Drain, cause string) error {
	b := x.pool.Load().find(addr)
	if b == nil {
		return services.ErrUnknown
	}
	x.turning.Lock()
	defer x.turning.Unlock()
	if old := b.plan.Load(); old != nil {
		return old.Again("backend "+addr.String()+" of service "+x.Name(), x.Now())
	}
	plan := x.PlanFor(addr, d, cause)
	b.plan.Store(plan)
	x.Assign(plan, addr)
	return nil
}

// UndrainBackend gives the backend new connections again; services.ErrNotDraining
// if it gets them.
func (x *Proxy) UndrainBackend(addr netip.AddrPort) error {
	b := x.pool.Load().find(addr)
	if b == nil {
		return services.ErrUnknown
	}
	x.turning.Lock()
	defer x.turning.Unlock()
	plan := b.plan.Swap(nil)
	if plan == nil {
		return services.ErrNotDraining
	}
	x.TakeBack(plan, addr)
	return nil
}

func (p *Pool) find(addr netip.AddrPort) *Backend {
	for _, b := range p.backends {
		if b.addr == addr {
			return b
		}
	}
	return nil
}
