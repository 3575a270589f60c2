package stack

import (
	"fmt"
	"net/netip"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/stack/flow"
)

// What services ask of the flow table, as far as the stack has a part in it: the
// connections that the table takes over are the stack's at first.

// Own makes the owner of carried connections known.
func (s *Stack) Own(name string, o flow.CarrierOwner, settings flow.CarrierSettings) {
	s.flows.Own(name, o, settings)
}

// Carries reports whether there is a table that carries connections.
func (s *Stack) Carries() bool { return s.flows != nil }

// Carry says how connections to an address are carried. From the first that may
// be direct on, the stack keeps to ports of its own toward backends, because each
// of the two has its own initial sequence numbers.
func (s *Stack) Carry(addr netip.AddrPort, owner string, by tcpinfo.Carrier) error {
	if by == tcpinfo.Direct {
		if err := s.s.SetPortRange(firstStackPort, flow.FirstDirectPort-1); err != nil {
			return fmt.Errorf("keep ports for direct connections: %w", toError(err))
		}
	}
	s.flows.Carry(addr, owner, by)
	return nil
}

// firstStackPort is gVisor's FirstEphemeral.
const firstStackPort = 16000

// DialHeld is Dial, and what the peer sends is held back until Splice or Unhold.
func (s *Stack) DialHeld(remote netip.AddrPort, policy string) (*Conn, error) {
	c, err := s.dialHeld(remote, policy)
	if err == nil {
		s.flows.Hold(c.local, c.remote, c.id)
	}
	return c, err
}

// Splice has the table carry what one connection sends to the other. Neither Conn
// is to be used after it; after an error nothing has changed.
func (s *Stack) Splice(client, backend *Conn, owner string) error {
	if err := s.flows.Splice(client.ends(), backend.ends(), owner); err != nil {
		return err
	}
	client.discard()
	backend.discard()
	return nil
}

// Unhold gives a connection what its peer has sent meanwhile.
func (s *Stack) Unhold(c *Conn) { s.flows.Unhold(c.local, c.remote, c.id) }

// Flows is the table, for what needs no stack.
func (s *Stack) Flows() *flow.Table { return s.flows }

func (c *Conn) ends() flow.Ends { return flow.Ends{Local: c.local, Remote: c.remote, ID: c.id} }

// discard lets go of the endpoint; the table swallows what it says.
func (c *Conn) discard() {
	if c.closed.Swap(true) {
		return
	}
	c.Notify(nil)
	c.ep.Abort()
}
