package stack

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Datagrams is a UDP port of one interface, for a protocol that begins before the
// interface has an address. Its methods may be called from several goroutines;
// Close ends a ReadFrom.
type Datagrams struct {
	conn      *gonet.UDPConn
	s         *Stack
	id        tcpip.NICID
	port      uint16
	broadcast uint16
}

// Datagrams opens a port of an interface for IPv4. It hears what is sent to any
// address of the interface, or to 255.255.255.255; Broadcast sends to the port
// called broadcast.
func (s *Stack) Datagrams(iface string, port, broadcast uint16) (*Datagrams, error) {
	id, ok := s.names[iface]
	if !ok {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, iface, errNoCard)
	}
	var queue waiter.Queue
	ep, err := s.s.NewEndpoint(udp.ProtocolNumber, header.IPv4ProtocolNumber, &queue)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, iface, toError(err))
	}
	err = ep.SocketOptions().SetBindToDevice(int32(id))
	if err == nil {
		err = ep.Bind(tcpip.FullAddress{Port: port})
	}
	if err != nil {
		ep.Close()
		return nil, fmt.Errorf("open UDP port %d on %s: %w", port, iface, toError(err))
	}
	return &Datagrams{conn: gonet.NewUDPConn(&queue, ep), s: s, id: id, port: port, broadcast: broadcast}, nil
}

// ReadFrom waits for a datagram; net.ErrClosed or another error is the end.
func (d *Datagrams) ReadFrom(p []byte) (int, net.Addr, error) { return d.conn.ReadFrom(p) }

// WriteTo sends to one host.
func (d *Datagrams) WriteTo(p []byte, to net.Addr) (int, error) { return d.conn.WriteTo(p, to) }

// Close gives the port back.
func (d *Datagrams) Close() error { return d.conn.Close() }

// Broadcast sends to all hosts on the link, from an address that may be
// unspecified: gVisor sends from none but its own.
func (d *Datagrams) Broadcast(p []byte, from netip.Addr) error {
	const most = 1472 // what an Ethernet frame holds
	if len(p) > most {
		return fmt.Errorf("broadcast %d bytes: more than %d", len(p), most)
	}
	packet := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize+len(p))
	src := tcpip.AddrFrom4(from.As4())
	ip := header.IPv4(packet)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(packet)), Flags: header.IPv4FlagDontFragment, TTL: 64,
		Protocol: uint8(header.UDPProtocolNumber), SrcAddr: src, DstAddr: header.IPv4Broadcast,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(ip.Payload())
	u.Encode(&header.UDPFields{SrcPort: d.port, DstPort: d.broadcast, Length: uint16(len(u))})
	copy(u.Payload(), p)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, header.IPv4Broadcast, uint16(len(u)))
	sum = ^u.CalculateChecksum(checksum.Checksum(p, sum))
	if sum == 0 {
		sum = 0xffff // RFC 768: an all zero checksum means that there is none
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	err := d.s.s.WritePacketToRemote(d.id, header.EthernetBroadcastAddress, header.IPv4ProtocolNumber, buffer.MakeWithData(packet))
	if err != nil {
		return fmt.Errorf("broadcast: %w", toError(err))
	}
	return nil
}

// DialUDP connects a UDP socket to a host; routes choose the interface and our
// address.
func (s *Stack) DialUDP(remote netip.AddrPort) (net.Conn, error) {
	if err := s.mayDial(remote.Addr()); err != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	to := fullAddress(remote)
	c, err := gonet.DialUDP(s.s, nil, &to, protocolOf(remote.Addr()))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	return c, nil
}
