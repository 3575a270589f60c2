package netif

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/netif/frame"
)

const tagSize = 4 // 802.1Q

// gsoMax is the largest TCP packet handed to the kernel in one piece: an IPv4
// total length has 16 bits, less room for the link header.
const gsoMax = 65535 - 256

// Port is gVisor's link endpoint for one VLAN of an Endpoint, or for its
// untagged frames.
type Port struct {
	e          *Endpoint
	vlan       uint16
	dispatcher atomic.Pointer[gstack.NetworkDispatcher]
	onClose    atomic.Pointer[func()]
}

var (
	_ gstack.LinkEndpoint = (*Port)(nil)
	_ gstack.GSOEndpoint  = (*Port)(nil)
)

// MTU implements stack.LinkEndpoint: bytes of the largest network packet.
func (p *Port) MTU() uint32 { return p.e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint. The card's MTU is the kernel's to set
// (ip link, or NIC.Claim); a change there is followed.
func (p *Port) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (p *Port) MaxHeaderLength() uint16 {
	if p.vlan != 0 {
		return frame.EthernetSize + tagSize
	}
	return frame.EthernetSize
}

// LinkAddress implements stack.LinkEndpoint.
func (p *Port) LinkAddress() tcpip.LinkAddress {
	mac := p.e.mac.Load()
	return tcpip.LinkAddress(mac[:])
}

// SetLinkAddress implements stack.LinkEndpoint; the card's address is the kernel's to set.
func (p *Port) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Receive checksums are verified
// here, per frame, except while a fragment is delivered.
func (p *Port) Capabilities() gstack.LinkEndpointCapabilities {
	c := gstack.CapabilityResolutionRequired
	if !p.e.verify.Load() {
		c |= gstack.CapabilityRXChecksumOffload
	}
	return c
}

// GSOMaxSize implements stack.GSOEndpoint.
func (p *Port) GSOMaxSize() uint32 { return gsoMax }

// SupportedGSO implements stack.GSOEndpoint: the kernel or the card cuts
// super-frames into segments.
func (p *Port) SupportedGSO() gstack.SupportedGSO { return gstack.HostGSOSupported }

// Attach implements stack.LinkEndpoint. The receive goroutines belong to the
// Endpoint: attaching only opens the way to the stack.
func (p *Port) Attach(d gstack.NetworkDispatcher) {
	if d == nil {
		p.dispatcher.Store(nil)
		return
	}
	p.dispatcher.Store(&d)
}

// IsAttached implements stack.LinkEndpoint.
func (p *Port) IsAttached() bool { return p.dispatcher.Load() != nil }

// Wait implements stack.LinkEndpoint: a Port has no goroutine of its own.
func (p *Port) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (p *Port) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (p *Port) AddHeader(pkt *gstack.PacketBuffer) {
	b := pkt.LinkHeader().Push(int(p.MaxHeaderLength()))
	copy(b, pkt.EgressRoute.RemoteLinkAddress)
	copy(b[6:], pkt.EgressRoute.LocalLinkAddress)
	b = b[12:]
	if p.vlan != 0 {
		binary.BigEndian.PutUint16(b, frame.TypeVLAN)
		binary.BigEndian.PutUint16(b[2:], p.vlan)
		b = b[tagSize:]
	}
	binary.BigEndian.PutUint16(b, uint16(pkt.NetworkProtocolNumber))
}

// ParseHeader implements stack.LinkEndpoint. Frames come without link header.
func (p *Port) ParseHeader(*gstack.PacketBuffer) bool { return true }

// Close implements stack.LinkEndpoint: the stack lets go; the Endpoint goes on.
func (p *Port) Close() {
	p.dispatcher.Store(nil)
	if f := p.onClose.Swap(nil); f != nil {
		(*f)()
	}
}

// SetOnCloseAction implements stack.LinkEndpoint.
func (p *Port) SetOnCloseAction(f func()) {
	if f == nil {
		p.onClose.Store(nil)
		return
	}
	p.onClose.Store(&f)
}
