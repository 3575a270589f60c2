package main

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// network and listener join the stack to what services ask for; stack doesn't
// know services, nor the other way round.
type network struct {
	*stack.Stack
	log *slog.Logger
}

type listener struct{ *stack.Listener }

var (
	_ services.Network  = network{}
	_ services.Listener = listener{}
	_ services.Conn     = (*stack.Conn)(nil)
)

func (n network) Listen(addr netip.AddrPort, policy string) (services.Listener, error) {
	l, err := n.Stack.Listen(addr, policy)
	if err != nil {
		return nil, err
	}
	return listener{l}, nil
}

func (n network) Dial(remote netip.AddrPort, policy string) (services.Conn, error) {
	c, err := n.Stack.Dial(remote, policy)
	if err != nil {
		return nil, err // a nil *Conn in the interface would not be nil
	}
	return c, nil
}

func (l listener) TryAccept() (services.Conn, error) {
	c, err := l.Listener.TryAccept()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// The flow table carries connections for services.
var _ services.Carrier = network{}

func (n network) Own(name string, o services.CarrierOwner, s services.CarrierSettings) {
	n.Stack.Own(name, o, flow.CarrierSettings(s))
}

func (n network) Carry(addr netip.AddrPort, owner string, by tcpinfo.Carrier) {
	if err := n.Stack.Carry(addr, owner, by); err != nil {
		n.log.Warn("connections are relayed", "address", addr, "error", err)
	}
}

func (n network) DialHeld(remote netip.AddrPort, policy string) (services.Conn, error) {
	c, err := n.Stack.DialHeld(remote, policy)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (n network) Splice(client, backend services.Conn, owner string) error {
	c, ok := client.(*stack.Conn)
	b, too := backend.(*stack.Conn)
	if !ok || !too {
		return errors.New("not the stack's connections")
	}
	return n.Stack.Splice(c, b, owner)
}

func (n network) Unhold(c services.Conn) {
	if one, ok := c.(*stack.Conn); ok {
		n.Stack.Unhold(one)
	}
}

func (n network) Views(owner string, f func(*tcpinfo.CarriedView)) { n.Flows().Views(owner, f) }

func (n network) List(owner string, f func(*tcpinfo.Carried)) { n.Flows().ListCarried(owner, f) }

func (n network) Find(owner string, id uint64) (tcpinfo.CarriedRef, bool) {
	return n.Flows().FindCarried(owner, id)
}

func (n network) End(ref tcpinfo.CarriedRef, how tcpinfo.CarriedEnd) bool {
	return n.Flows().End(ref, how)
}

func (n network) ProbeLeg(ref tcpinfo.CarriedRef, leg tcpinfo.LegName, done func(tcpinfo.Probe)) {
	n.Flows().ProbeLeg(ref, leg, done)
}
