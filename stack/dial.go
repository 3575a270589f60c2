package stack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Dial starts a handshake with remote under the named policy and returns at
// once: Conn.Established tells how it goes. gVisor repeats the SYN for 127
// seconds whatever the policy says: give up earlier with Abort.
func (s *Stack) Dial(remote netip.AddrPort, policy string) (*Conn, error) {
	p, err := s.policy(policy)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	c := &Conn{id: s.nextID.Add(1), remote: remote}
	c.queue = &c.own
	ep, terr := s.s.NewEndpoint(tcp.ProtocolNumber, protocolOf(remote.Addr()), c.queue)
	if terr != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, toError(terr))
	}
	if err := applyPolicy(ep, p); err != nil {
		ep.Close()
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	c.ep, c.unarmed = ep, p.Keepalive.Idle > 0
	// No Bind: gVisor keeps a port bound without an address for ever, and one
	// picked by Connect may serve every backend at once.
	if err := ep.Connect(fullAddress(remote)); err != nil {
		if _, started := err.(*tcpip.ErrConnectStarted); !started {
			ep.Close()
			return nil, fmt.Errorf("dial %s: %w", remote, toError(err))
		}
	}
	if local, err := ep.GetLocalAddress(); err == nil {
		c.local = addrPort(local)
	}
	return c, nil
}
