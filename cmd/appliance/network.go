package main

import (
	"net/netip"

	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/stack"
)

// network and listener join the stack to what services ask for; stack doesn't
// know services, nor the other way round.
type network struct{ *stack.Stack }

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
