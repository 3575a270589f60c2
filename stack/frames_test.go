package stack_test

import (
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/lastack/lastack/internal/lab"
)

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func ethernet(src, dst net.HardwareAddr, kind tcpip.NetworkProtocolNumber, packet []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(packet))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(src), DstAddr: tcpip.LinkAddress(dst), Type: kind,
	})
	return append(frame, packet...)
}

func ipv4(src, dst netip.Addr, protocol tcpip.TransportProtocolNumber, body []byte) []byte {
	p := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	ip := header.IPv4(p)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(p) + len(body)), TTL: 64, Protocol: uint8(protocol),
		SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(p, body...)
}

// segment is a TCP segment over IPv4 without data.
func segment(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32) []byte {
	b := make(header.TCP, header.TCPMinimumSize)
	b.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535,
	})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpipAddr(src.Addr()), tcpipAddr(dst.Addr()), uint16(len(b)))
	b.SetChecksum(^b.CalculateChecksum(sum))
	return ipv4(src.Addr(), dst.Addr(), header.TCPProtocolNumber, b)
}

// arp asks, in the name of an address, for another one.
func arp(mac net.HardwareAddr, from, target netip.Addr) []byte {
	h := make(header.ARP, header.ARPSize)
	h.SetIPv4OverEthernet()
	h.SetOp(header.ARPRequest)
	copy(h.HardwareAddressSender(), mac)
	copy(h.ProtocolAddressSender(), from.AsSlice())
	copy(h.ProtocolAddressTarget(), target.AsSlice())
	return ethernet(mac, broadcast, header.ARPProtocolNumber, h)
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// advertise is a router's advertisement of itself for half an hour and of an
// on-link prefix of 64 bits to make addresses of (RFC 4861, 4.2).
func advertise(mac net.HardwareAddr, prefix netip.Addr) []byte {
	src := header.LinkLocalAddr(tcpip.LinkAddress(mac))
	info := make([]byte, 30)
	info[0], info[1] = 64, 0xc0 // on-link, autonomous
	info[3], info[4] = 0x0e, 0x10
	info[7], info[8] = 0x0e, 0x10
	copy(info[14:], prefix.AsSlice())
	options := header.NDPOptionsSerializer{
		header.NDPSourceLinkLayerAddressOption(mac), header.NDPPrefixInformation(info),
	}
	b := make(header.ICMPv6, header.ICMPv6HeaderSize+header.NDPRAMinimumSize+options.Length())
	b.SetType(header.ICMPv6RouterAdvert)
	body := b.MessageBody()
	body[0] = 64               // hop limit
	body[2], body[3] = 0x07, 8 // router lifetime 1800 s
	header.NDPRouterAdvert(body).Options().Serialize(options)
	b.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: b, Src: src, Dst: header.IPv6AllNodesMulticastAddress,
	}))
	p := make(header.IPv6, header.IPv6MinimumSize)
	p.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(b)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 255,
		SrcAddr: src, DstAddr: header.IPv6AllNodesMulticastAddress,
	})
	to := header.EthernetAddressFromMulticastIPv6Address(header.IPv6AllNodesMulticastAddress)
	return ethernet(mac, net.HardwareAddr(to), header.IPv6ProtocolNumber, append([]byte(p), b...))
}

// macOf is the hardware address of a host's interface.
func macOf(t *testing.T, h *lab.Host, name string) net.HardwareAddr {
	t.Helper()
	l, err := h.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.MAC
}

// arpIn reads a frame as ARP.
func arpIn(frame []byte) (header.ARP, bool) {
	if len(frame) < header.EthernetMinimumSize || header.Ethernet(frame).Type() != header.ARPProtocolNumber {
		return nil, false
	}
	h := header.ARP(frame[header.EthernetMinimumSize:])
	return h, h.IsValid()
}

// icmp6In reads a frame as ICMPv6 with a right checksum.
func icmp6In(frame []byte) (header.IPv6, header.ICMPv6, bool) {
	if len(frame) < header.EthernetMinimumSize+header.IPv6MinimumSize+header.ICMPv6HeaderSize ||
		header.Ethernet(frame).Type() != header.IPv6ProtocolNumber {
		return nil, nil, false
	}
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	if ip.NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
		return nil, nil, false
	}
	b := header.ICMPv6(ip.Payload())
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(b)))
	return ip, b, checksum.Checksum(b, sum) == 0xffff
}

// stranger is a host that only the test plays: the box knows its hardware
// address, and no kernel answers what the box sends there.
type stranger struct {
	raw  *lab.Raw
	addr netip.Addr
	mac  net.HardwareAddr // of the peer, whose card it uses
	box  net.HardwareAddr
}

func (r *rig) stranger(t *testing.T, raw *lab.Raw, addr string) *stranger {
	t.Helper()
	s := &stranger{raw: raw, addr: netip.MustParseAddr(addr), mac: macOf(t, r.peer, "eth0"), box: macOf(t, r.box, "eth0")}
	s.send(t, arp(s.mac, s.addr, box4)) // who asks is remembered
	return s
}

func (s *stranger) send(t *testing.T, frame []byte) {
	t.Helper()
	if err := s.raw.Send(frame); err != nil {
		t.Fatal(err)
	}
}

// tcp sends the box a segment from one of the stranger's ports.
func (s *stranger) tcp(t *testing.T, port uint16, to netip.AddrPort, flags header.TCPFlags, seq, ack uint32) {
	t.Helper()
	packet := segment(netip.AddrPortFrom(s.addr, port), to, flags, seq, ack)
	s.send(t, ethernet(s.mac, s.box, header.IPv4ProtocolNumber, packet))
}
