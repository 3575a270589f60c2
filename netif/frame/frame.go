// Package frame holds what the driver and the flow table both know of an
// Ethernet frame: its bytes, its offload metadata (the virtio_net_hdr that
// AF_PACKET puts before it) and its VLAN tag. It imports nothing of ours and
// no gVisor, so that netif and stack/flow can share it.
package frame

// EthernetSize is the size of an untagged Ethernet header in bytes.
const EthernetSize = 14

// Flags of Header.Flags (linux/virtio_net.h).
const (
	// NeedsCsum: the transport checksum holds only the pseudo-header's sum;
	// the rest is to be added from CsumStart to the end, and stored at
	// CsumStart+CsumOffset. The frame never was on a wire.
	NeedsCsum = 1
	// DataValid: the card or the kernel has verified the transport checksum.
	DataValid = 2
)

// Values of Header.GSOType.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80
)

// HeaderSize is the size of Header in memory and in front of every frame of a
// socket with PACKET_VNET_HDR.
const HeaderSize = 10

// Header is struct virtio_net_hdr in host byte order, as AF_PACKET gives and takes it.
type Header struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // bytes of all headers, Ethernet's included
	GSOSize    uint16 // payload bytes per segment on the wire
	CsumStart  uint16 // from the start of the Ethernet header
	CsumOffset uint16 // from CsumStart
}

// Frame is one Ethernet frame, possibly a super-frame of many segments. Its
// slices belong to whoever hands it out and are valid only during the call.
type Frame struct {
	Meta Header
	VLAN uint16 // 802.1Q TCI when Tagged
	// Tagged: the frame carried an 802.1Q tag, which is not in Eth any more.
	Tagged bool
	Eth    []byte // EthernetSize bytes
	Net    []byte // the network packet: everything after Eth
	// What a Filter sends that says Forward: headers and data, by the card To.
	// Room is for the headers, RoomSize bytes; nil where nothing can be forwarded.
	Room, Head, Body []byte
	To               Outlet
}

// RoomSize holds the headers of any TCP segment: tagged Ethernet, IPv6 and TCP
// with options are 118 bytes.
const RoomSize = 128

// Outlet is a card that frames can be forwarded to.
type Outlet interface {
	// Name is the kernel's name of the card.
	Name() string
	// MTU is what a network packet may have, in bytes.
	MTU() uint32
}

// Verdict is a Filter's decision on one frame.
type Verdict uint8

// The verdicts.
const (
	Pass    Verdict = iota // go on: inbound to the stack, outbound to the wire
	Drop                   // the frame ends here, and is counted
	Consume                // the filter took care of it; counted as carried
	Reply                  // inbound only: send it back, as rewritten, out of the same card
	Forward                // inbound only: send Head and Body by To; counted as carried
)

// Filter sees every frame of a NIC: Inbound before the stack does, Outbound
// before the wire does. Both are called from several goroutines at once, must
// not block and must not keep the Frame; both may rewrite it in place.
type Filter interface {
	Inbound(f *Frame) Verdict
	Outbound(f *Frame) Verdict
}
