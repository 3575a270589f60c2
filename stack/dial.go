package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/lastack/lastack/config"
)

// dialTries bounds how often a port is chosen anew because the one gVisor
// took is in TIME-WAIT toward the same peer.
const dialTries = 32

// Dial starts a handshake with remote under the named policy and returns at
// once: Conn.Established tells how it goes. A SYN is repeated after 1, 3, 7 ...
// seconds, as often as syn_retries says; to give up earlier, Abort.
func (s *Stack) Dial(remote netip.AddrPort, policy string) (*Conn, error) {
	c, err := s.dialHeld(remote, policy)
	if err == nil && s.flows != nil {
		s.Unhold(c)
	}
	return c, err
}

// dialHeld dials, and what the peer sends may be held back: see flow.Table.Hold.
func (s *Stack) dialHeld(remote netip.AddrPort, policy string) (*Conn, error) {
	p, err := s.policy(policy)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	if err := s.mayDial(remote.Addr()); err != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	for range dialTries {
		c, err := s.dial(remote, p)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", remote, err)
		}
		if s.flows == nil {
			return c, nil
		}
		if s.flows.MayDial(c.local, c.remote) {
			s.flows.Adopt(c.local, c.remote, c.id, p.Name, false)
			return c, nil
		}
		c.ep.Abort()
	}
	return nil, fmt.Errorf("dial %s: all of %d ports tried are in TIME-WAIT toward it: %w", remote, dialTries, syscall.EADDRNOTAVAIL)
}

// errGroup is the answer to a dial of what is no single host (RFC 9293, 3.9.2.3).
var errGroup = errors.New("it is the address of no single host")

// mayDial refuses multicast and broadcast addresses, those of our subnets too.
func (s *Stack) mayDial(to netip.Addr) error {
	if to.IsMulticast() || to.IsUnspecified() || to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || s.broadcasting(to) {
		return errGroup
	}
	return nil
}

// broadcastOf is a subnet's broadcast address, or none.
func broadcastOf(p netip.Prefix) (netip.Addr, bool) {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return netip.Addr{}, false
	}
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b), true
}

// dial makes one try.
func (s *Stack) dial(remote netip.AddrPort, p *config.Policy) (*Conn, error) {
	c := &Conn{id: s.nextID.Add(1), s: s, policy: p, remote: remote, unarmed: true}
	c.queue = &c.own
	ep, terr := s.s.NewEndpoint(tcp.ProtocolNumber, protocolOf(remote.Addr()), c.queue)
	if terr != nil {
		return nil, toError(terr)
	}
	if err := applyPolicy(ep, p); err != nil {
		ep.Close()
		return nil, err
	}
	c.ep = ep
	// No Bind: gVisor keeps a port bound without an address for ever, and one
	// picked by Connect may serve every backend at once.
	if err := ep.Connect(fullAddress(remote)); err != nil {
		if _, started := err.(*tcpip.ErrConnectStarted); !started {
			ep.Close()
			return nil, toError(err)
		}
	}
	if local, err := ep.GetLocalAddress(); err == nil {
		c.local = addrPort(local)
	}
	return c, nil
}
