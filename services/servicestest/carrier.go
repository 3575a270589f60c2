package servicestest

import (
	"errors"
	"net/netip"
	"time"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
)

// CarrierNet is a Net that carries connections too: it moves the bytes of those
// it is given by itself, ends them as it is told, and reports their ends. It needs
// testing/synctest, since it uses timers even without a delay.
type CarrierNet struct {
	*Net
	Refusal error // what Splice answers, if not nil
	// Lost: no backend can be carried to from the SYN on, as before the stack has
	// connected to it once.
	Lost bool
	Slow time.Duration // what Views takes

	// guarded by Net.mu
	owners  map[string]owned
	carried map[netip.AddrPort]carriedBy
	flows   map[uint64]*carriedFlow
	slots   uint32
	ends    int
	unheld  int
}

type owned struct {
	services.CarrierOwner
	services.CarrierSettings
}

type carriedBy struct {
	owner   string
	carrier tcpinfo.Carrier
}

var (
	_ services.Network = (*CarrierNet)(nil)
	_ services.Carrier = (*CarrierNet)(nil)
)

// NewCarrierNet makes a Net carry.
func NewCarrierNet(n *Net) *CarrierNet {
	c := &CarrierNet{Net: n, owners: map[string]owned{}, carried: map[netip.AddrPort]carriedBy{}, flows: map[uint64]*carriedFlow{}}
	n.carrier = c
	return c
}

// Flows counts the connections that are carried.
func (n *CarrierNet) Flows() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.flows)
}

// Ends counts the calls of End, Unheld those of Unhold.
func (n *CarrierNet) Ends() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ends
}

// Unheld counts the connections that were held back, and then not.
func (n *CarrierNet) Unheld() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unheld
}

// Carries tells how connections to a listening address are carried.
func (n *CarrierNet) Carries(addr netip.AddrPort) tcpinfo.Carrier {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by(addr).carrier
}

func (n *CarrierNet) by(addr netip.AddrPort) carriedBy {
	if by, ok := n.carried[addr]; ok {
		return by
	}
	return carriedBy{carrier: tcpinfo.Relay}
}

// Own implements services.Carrier.
func (n *CarrierNet) Own(name string, o services.CarrierOwner, s services.CarrierSettings) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.owners[name] = owned{o, s}
}

// Carry implements services.Carrier.
func (n *CarrierNet) Carry(addr netip.AddrPort, owner string, by tcpinfo.Carrier) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.carried[addr] = carriedBy{owner, by}
}

// DialHeld implements services.Carrier.
func (n *CarrierNet) DialHeld(remote netip.AddrPort, _ string) (services.Conn, error) {
	c, err := n.dial(remote)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c.held = true
	return c, nil
}

// Unhold implements services.Carrier.
func (n *CarrierNet) Unhold(c services.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one := c.(*Conn)
	if one.held {
		n.unheld++
	}
	one.held = false
	one.event()
}

// Splice implements services.Carrier.
func (n *CarrierNet) Splice(client, backend services.Conn, owner string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, b := client.(*Conn), backend.(*Conn)
	switch {
	case n.Refusal != nil:
		return n.Refusal
	case a.err != nil || b.err != nil:
		return errors.New("one of them has ended")
	case !a.held || !b.held:
		return errors.New("something was read already")
	}
	n.flow(tcpinfo.Splice, owner, a, b, a.id).pump()
	return nil
}

// flow makes a carried connection.
func (n *CarrierNet) flow(by tcpinfo.Carrier, owner string, client, backend *Conn, id uint64) *carriedFlow {
	n.slots++
	f := &carriedFlow{net: n, owner: owner, ref: tcpinfo.CarriedRef{ID: id, Slot: n.slots}, carrier: by, client: client, backend: backend,
		opened: time.Now(), moved: time.Now()}
	n.flows[id] = f
	f.watch(client, backend)
	return f
}

// Views implements services.Carrier.
func (n *CarrierNet) Views(owner string, f func(*tcpinfo.CarriedView)) {
	time.Sleep(n.Slow)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, one := range n.flows {
		if one.owner == owner {
			v := one.view()
			f(&v)
		}
	}
}

// List implements services.Carrier.
func (n *CarrierNet) List(owner string, f func(*tcpinfo.Carried)) {
	n.mu.Lock()
	var all []tcpinfo.Carried
	for _, one := range n.flows {
		if one.owner == owner {
			all = append(all, one.carried())
		}
	}
	n.mu.Unlock()
	for i := range all {
		f(&all[i])
	}
}

// Find implements services.Carrier.
func (n *CarrierNet) Find(owner string, id uint64) (tcpinfo.CarriedRef, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.flows[id]
	if f == nil || f.owner != owner {
		return tcpinfo.CarriedRef{}, false
	}
	return f.ref, true
}

// End implements services.Carrier.
func (n *CarrierNet) End(ref tcpinfo.CarriedRef, how tcpinfo.CarriedEnd) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends++
	f := n.flows[ref.ID]
	if f == nil || f.ref != ref {
		return false
	}
	f.end(how)
	return true
}

// ProbeLeg implements services.Carrier.
func (n *CarrierNet) ProbeLeg(ref tcpinfo.CarriedRef, leg tcpinfo.LegName, done func(tcpinfo.Probe)) {
	n.mu.Lock()
	f := n.flows[ref.ID]
	alive := tcpinfo.NotProbed
	if f != nil && (leg == tcpinfo.ClientLeg || !f.connecting) {
		alive = tcpinfo.Answers
	}
	n.mu.Unlock()
	done(tcpinfo.Probe{Alive: alive, Sent: 1})
}

// GiveUp ends a carried connection by a rule of its policy that one side has
// broken, as the flow table would.
func (n *CarrierNet) GiveUp(id uint64, leg tcpinfo.LegName, rule tcpinfo.Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.flows[id]
	f.broken, f.brokenBy = leg, rule
	f.end(tcpinfo.CarriedEnd{How: "rst", Why: rule})
}
