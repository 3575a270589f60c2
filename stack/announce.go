package stack

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// Announce tells the neighbours of all addresses, which New does by itself unless
// they were owned before.
func (s *Stack) Announce() {
	for _, l := range s.cards {
		for _, p := range linkAddresses(l) {
			s.announce(s.names[l.Interface.Name], l, p.Addr())
		}
	}
	s.mu.Lock()
	leases := slices.Clone(s.leases)
	s.mu.Unlock()
	for _, l := range leases {
		id := s.names[l.Interface]
		s.announce(id, s.cards[id-1], l.Prefix.Addr())
	}
}

// announce tells the neighbours who has the address now, so that those who
// remember its last holder (a box that this one replaces, the kernel that the
// card was taken from) do not send there: an ARP announcement (RFC 5227, 3) or
// an unsolicited neighbour advertisement (RFC 4861, 7.2.6).
func (s *Stack) announce(id tcpip.NICID, l Link, a netip.Addr) {
	mac := l.Endpoint.LinkAddress()
	var err tcpip.Error
	if a.Is4() {
		err = s.s.WritePacketToRemote(id, header.EthernetBroadcastAddress, header.ARPProtocolNumber,
			buffer.MakeWithData(arpAnnouncement(mac, a)))
	} else {
		to := header.EthernetAddressFromMulticastIPv6Address(header.IPv6AllNodesMulticastAddress)
		err = s.s.WritePacketToRemote(id, to, ipv6.ProtocolNumber, buffer.MakeWithData(advertisement(mac, a)))
	}
	if err != nil {
		s.log.Warn("address could not be announced; neighbours may need a minute to find it",
			"address", a, "nic", l.Interface.Name, "err", toError(err))
	}
}

func arpAnnouncement(mac tcpip.LinkAddress, a netip.Addr) []byte {
	h := make(header.ARP, header.ARPSize)
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), mac)
	copy(h.ProtocolAddressSender(), a.AsSlice())
	copy(h.ProtocolAddressTarget(), a.AsSlice())
	return h
}

func advertisement(mac tcpip.LinkAddress, a netip.Addr) []byte {
	src := tcpip.AddrFromSlice(a.AsSlice())
	options := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(mac)}
	size := header.ICMPv6NeighborAdvertMinimumSize + options.Length()
	packet := make([]byte, header.IPv6MinimumSize+size)
	ip := header.IPv6(packet)
	ip.Encode(&header.IPv6Fields{
		PayloadLength:     uint16(size),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          header.NDPHopLimit,
		SrcAddr:           src,
		DstAddr:           header.IPv6AllNodesMulticastAddress,
	})
	icmp := header.ICMPv6(ip.Payload())
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetOverrideFlag(true)
	na.SetTargetAddress(src)
	na.Options().Serialize(options)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp, Src: src, Dst: header.IPv6AllNodesMulticastAddress,
	}))
	return packet
}
