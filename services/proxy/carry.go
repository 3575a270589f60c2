package proxy

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

// mode is how new connections are carried.
type mode struct {
	by  tcpinfo.Carrier
	why string // nothing cheaper; "" for Direct
}

// modeNow is what the configuration and the network allow.
func (x *Proxy) modeNow() *mode {
	by, why := x.conf().Carrier()
	if auto := x.conf().Forwarding; (auto == "auto" || auto == "") && ownSender(&x.Settings().Policy) {
		return &mode{tcpinfo.Relay, "retransmit or congestion of its policy, which only relay keeps to"}
	}
	if tcpinfo.Carrier(by) != tcpinfo.Relay && x.Carrier() == nil {
		return &mode{tcpinfo.Relay, "the network carries none"}
	}
	return &mode{tcpinfo.Carrier(by), why}
}

// ownSender reports whether a policy wants what only a sender of ours can do: other
// peers' stacks retransmit by their own rules.
func ownSender(p *config.Policy) bool {
	usual := config.DefaultPolicy()
	r := p.Retransmit
	r.SynRetries = usual.Retransmit.SynRetries // of handshakes, which are ours or bounded anyway
	return r != usual.Retransmit && p.Retransmit != (config.Retransmit{}) || p.Congestion != usual.Congestion && p.Congestion != ""
}

// own tells the Carrier by what settings it carries for us.
func (x *Proxy) own() {
	if x.Carrier() == nil {
		return
	}
	c := x.conf()
	x.Carrier().Own(x.Owner(), owner{x}, services.CarrierSettings{
		Policy: c.Policy, IdleTimeout: c.IdleTimeout, ConnectTimeout: c.ConnectTimeout, ConnectRetries: c.ConnectRetries,
	})
}

// open dials the target: held back, if the connection may be spliced.
func (p *pair) open() (services.Conn, error) {
	m, policy := p.proxy.mode.Load(), p.proxy.conf().Policy
	if p.held = m.by != tcpinfo.Relay && p.Client.Beat == nil && p.Backend.Beat == nil; p.held {
		return p.proxy.Carrier().DialHeld(p.target.addr, policy)
	}
	return p.proxy.net.Dial(p.target.addr, policy)
}

// carried gives the pair away, just connected, if it can be carried. Else it
// notes why not, and lets what was held back arrive.
func (p *pair) carried() bool {
	if p.proxy.Carrier() == nil {
		return false
	}
	if p.held {
		err := p.Splice()
		if err == nil {
			p.counted = false // Ended gives the place in target.active back
			return true
		}
		p.Relays(err.Error())
	} else if p.Client.Beat != nil || p.Backend.Beat != nil {
		p.Relays("heartbeat")
	}
	p.unhold()
	return false
}

// unhold lets what was held back arrive.
func (p *pair) unhold() {
	c := p.proxy.Carrier()
	if c == nil {
		return
	}
	c.Unhold(p.Client.Conn)
	if p.held && p.Backend.Present() {
		c.Unhold(p.Backend.Conn)
	}
	p.held = false
}

// owner is the proxy as a Carrier knows it.
type owner struct{ proxy *Proxy }

var _ services.CarrierOwner = owner{}

// Choose implements services.CarrierOwner, by the rules of the Pool.
func (o owner) Choose(_, after netip.AddrPort) (netip.AddrPort, bool) {
	x, first := o.proxy, !after.IsValid()
	if first && (x.mode.Load().by != tcpinfo.Direct || !x.Admit()) {
		return netip.AddrPort{}, false
	}
	pool := x.pool.Load()
	var last *Backend
	if !first {
		last = pool.known(after)
	}
	if b := pool.pick(x.Now(), last); b != nil {
		return b.addr, true
	}
	if first {
		x.Unadmit()
	}
	return netip.AddrPort{}, false
}

// Tried implements services.CarrierOwner.
func (o owner) Tried(backend netip.AddrPort, err error) {
	x := o.proxy
	b := x.backend(backend)
	switch {
	case err == nil:
		x.pool.Load().worked(b)
		b.active.Add(1)
		x.Reached(backend, b.plan.Load())
	case !errors.Is(err, syscall.EADDRNOTAVAIL): // a lack of local ports is no fault of the backend
		x.pool.Load().failed(b, x.Now(), err)
	}
}

// Spared implements services.CarrierOwner. The turn goes to the next connection
// that is dialled, most likely the same client's: else a backend that cannot be
// carried yet would be passed over for ever, and its trial be wasted.
func (o owner) Spared(backend netip.AddrPort) {
	o.proxy.Unadmit()
	o.proxy.spared.Store(o.proxy.pool.Load().find(backend))
}

// choose picks the backend of an attempt after another, nil for the first.
func (x *Proxy) choose(now time.Duration, after *Backend) *Backend {
	if after == nil {
		if b := x.spared.Swap(nil); b != nil && b.plan.Load() == nil && x.pool.Load().find(b.addr) == b {
			return b
		}
	}
	return x.pool.Load().pick(now, after)
}

// Ended implements services.CarrierOwner.
func (o owner) Ended(v *tcpinfo.Carried) {
	if !v.View.Connecting {
		o.proxy.backend(v.View.Backend).active.Add(-1)
	}
	o.proxy.CarriedEnded(v)
}

// backend finds a backend, or makes one that only has connections.
func (x *Proxy) backend(addr netip.AddrPort) *Backend {
	for {
		pool := x.pool.Load()
		if b := pool.known(addr); b != nil {
			return b
		}
		b := &Backend{addr: addr}
		if x.pool.CompareAndSwap(pool, pool.remembering(b)) {
			return b
		}
	}
}

// loadCarried counts what the Carrier has taken over from the process before.
func (x *Proxy) loadCarried() {
	for addr, n := range x.CarriedBackends() {
		x.backend(addr).active.Add(n)
	}
}
