package stack

import (
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ndpConfig is how an interface treats router advertisements: not at all
// unless it was asked for, because anybody on the link can send one.
func ndpConfig(accept bool) ipv6.NDPConfigurations {
	c := ipv6.DefaultNDPConfigurations()
	c.HandleRAs = ipv6.HandlingRAsDisabled
	c.AutoGenTempGlobalAddresses = false // a server wants one stable address
	if accept {
		c.HandleRAs = ipv6.HandlingRAsEnabledWhenForwardingDisabled
	} else {
		c.AutoGenGlobalAddresses = false
	}
	return c
}

// routers follows what routers advertise and keeps the route table by it.
// gVisor calls with its locks held, so the changes are queued for a goroutine.
type routers struct {
	s  *Stack
	wg sync.WaitGroup

	mu     sync.Mutex // guards what follows
	queue  []func()
	closed bool
	wake   *sync.Cond
}

var _ ipv6.NDPDispatcher = (*routers)(nil)

func newRouters(s *Stack) *routers {
	r := &routers{s: s}
	r.wake = sync.NewCond(&r.mu)
	return r
}

func (r *routers) start() {
	r.wg.Add(1) // close waits
	go r.run()
}

func (r *routers) run() {
	defer r.wg.Done()
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.closed {
			r.wake.Wait()
		}
		if r.closed {
			r.mu.Unlock()
			return
		}
		f := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		f()
	}
}

func (r *routers) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wake.Broadcast()
	r.wg.Wait()
}

// maxRouterEvents bounds what a flood of advertisements can queue.
const maxRouterEvents = 256

func (r *routers) later(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed && len(r.queue) < maxRouterEvents {
		r.queue = append(r.queue, f)
		r.wake.Signal()
	}
}

func (r *routers) add(route tcpip.Route) {
	r.later(func() {
		r.remove(route)
		r.s.s.AddRoute(route)
		r.s.changed()
	})
}

func (r *routers) remove(route tcpip.Route) {
	r.s.s.RemoveRoutes(func(have tcpip.Route) bool {
		return have.Destination.Equal(route.Destination) && have.Gateway == route.Gateway && have.NIC == route.NIC
	})
	r.s.changed()
}

// OnOffLinkRouteUpdated implements ipv6.NDPDispatcher.
func (r *routers) OnOffLinkRouteUpdated(id tcpip.NICID, dst tcpip.Subnet, router tcpip.Address, _ header.NDPRoutePreference) {
	r.add(tcpip.Route{Destination: dst, Gateway: router, NIC: id})
}

// OnOffLinkRouteInvalidated implements ipv6.NDPDispatcher.
func (r *routers) OnOffLinkRouteInvalidated(id tcpip.NICID, dst tcpip.Subnet, router tcpip.Address) {
	r.later(func() { r.remove(tcpip.Route{Destination: dst, Gateway: router, NIC: id}) })
}

// OnOnLinkPrefixDiscovered implements ipv6.NDPDispatcher.
func (r *routers) OnOnLinkPrefixDiscovered(id tcpip.NICID, prefix tcpip.Subnet) {
	r.add(tcpip.Route{Destination: prefix, NIC: id})
}

// OnOnLinkPrefixInvalidated implements ipv6.NDPDispatcher.
func (r *routers) OnOnLinkPrefixInvalidated(id tcpip.NICID, prefix tcpip.Subnet) {
	r.later(func() { r.remove(tcpip.Route{Destination: prefix, NIC: id}) })
}

// OnAutoGenAddress implements ipv6.NDPDispatcher.
func (r *routers) OnAutoGenAddress(id tcpip.NICID, a tcpip.AddressWithPrefix) gstack.AddressDispatcher {
	name := r.s.s.FindNICNameFromID(id)
	r.s.log.Info("address from a router advertisement", "nic", name, "address", a.String())
	addr, _ := netip.AddrFromSlice(a.Address.AsSlice()) // always 16 bytes
	if addr.IsLinkLocalUnicast() {
		return nil
	}
	return &advertised{r: r, change: AddressChange{Interface: name, Prefix: netip.PrefixFrom(addr, a.PrefixLen)}}
}

// AddressChange says that an address has come, or is about to be gone.
type AddressChange struct {
	Interface string
	Prefix    netip.Prefix
	Gone      bool
}

// advertised is an address of ours that was made after a router advertisement.
type advertised struct {
	r      *routers
	change AddressChange
	told   bool // gVisor calls with the address's lock held
}

// OnChanged implements gstack.AddressDispatcher.
func (a *advertised) OnChanged(_ gstack.AddressLifetimes, state gstack.AddressAssignmentState) {
	if state != gstack.AddressAssigned || a.told {
		return
	}
	a.told = true
	a.tell(a.change)
}

// OnRemoved implements gstack.AddressDispatcher.
func (a *advertised) OnRemoved(gstack.AddressRemovalReason) {
	if !a.told {
		return
	}
	gone := a.change
	gone.Gone = true
	a.tell(gone)
}

func (a *advertised) tell(c AddressChange) {
	if f := a.r.s.onAddress; f != nil {
		a.r.later(func() { f(c) })
	}
}

// OnAutoGenAddressDeprecated implements ipv6.NDPDispatcher.
func (r *routers) OnAutoGenAddressDeprecated(tcpip.NICID, tcpip.AddressWithPrefix) {}

// OnAutoGenAddressInvalidated implements ipv6.NDPDispatcher.
func (r *routers) OnAutoGenAddressInvalidated(tcpip.NICID, tcpip.AddressWithPrefix) {}

// OnDuplicateAddressDetectionResult implements ipv6.NDPDispatcher. gVisor has
// removed the address by then.
func (r *routers) OnDuplicateAddressDetectionResult(id tcpip.NICID, a tcpip.Address, result gstack.DADResult) {
	if dup, ok := result.(*gstack.DADDupAddrDetected); ok {
		r.s.log.Warn("address made after a router advertisement is already used by another host and was given up",
			"nic", r.s.s.FindNICNameFromID(id), "address", a.String(), "holder", dup.HolderLinkAddress.String())
	}
}

// OnRecursiveDNSServerOption implements ipv6.NDPDispatcher.
func (r *routers) OnRecursiveDNSServerOption(tcpip.NICID, []tcpip.Address, time.Duration) {}

// OnDNSSearchListOption implements ipv6.NDPDispatcher.
func (r *routers) OnDNSSearchListOption(tcpip.NICID, []string, time.Duration) {}

// OnDHCPv6Configuration implements ipv6.NDPDispatcher.
func (r *routers) OnDHCPv6Configuration(tcpip.NICID, ipv6.DHCPv6ConfigurationFromNDPRA) {}
