package lab

import "encoding/binary"

// Offsets and flags of struct virtio_net_hdr, linux/virtio_net.h.
const (
	vnetFlags      = 0
	vnetGSO        = 1
	vnetHdrLen     = 2
	vnetCsumStart  = 6
	vnetCsumOffset = 8

	vnetNeedsCsum = 1
)

// isSuper reports whether the frame is one that the kernel would still cut
// into segments.
func isSuper(vnet []byte) bool { return vnet[vnetGSO] != 0 }

// finish completes a checksum that the sender left to the hardware, as a card
// does before the frame is on the wire, and clears the header: nothing is
// known of the frame any more, and so the receiver verifies it.
func finish(vnet, frame []byte) {
	if vnet[vnetFlags]&vnetNeedsCsum != 0 {
		start := int(binary.NativeEndian.Uint16(vnet[vnetCsumStart:]))
		at := start + int(binary.NativeEndian.Uint16(vnet[vnetCsumOffset:]))
		if at+2 <= len(frame) {
			// The field holds the sum of the pseudo header.
			binary.BigEndian.PutUint16(frame[at:], ^fold(sum(frame[start:])))
		}
	}
	clear(vnet)
}

// shiftVnet returns a copy of the header for a frame that grew by n bytes
// before the network header.
func shiftVnet(vnet []byte, n uint16) []byte {
	c := append([]byte(nil), vnet...)
	for _, at := range []int{vnetHdrLen, vnetCsumStart} {
		if v := binary.NativeEndian.Uint16(c[at:]); v != 0 {
			binary.NativeEndian.PutUint16(c[at:], v+n)
		}
	}
	return c
}

// sum is the ones' complement sum of RFC 1071, not yet folded.
func sum(b []byte) uint64 {
	var s uint64
	for len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
