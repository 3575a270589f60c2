package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Flags are the control bits of a TCP segment, RFC 9293, 3.1.
type Flags uint8

// The control bits.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Has reports whether all of the bits are set.
func (f Flags) Has(bits Flags) bool { return f&bits == bits }

// String writes the flags as tcpdump does, "S." for SYN and ACK.
func (f Flags) String() string {
	var b strings.Builder
	for i, c := range "FSRP.UEC" {
		if f&(1<<i) != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// Segment is a TCP segment seen on an interface.
type Segment struct {
	Time     time.Time
	Outgoing bool // sent by the host it was seen on
	Src, Dst netip.AddrPort
	Flags    Flags
	Seq, Ack uint32
	Win      uint16 // not scaled
	Len      int    // bytes of data
	Options  []byte
	Payload  []byte // shorter than Len if the frame was cut
	Frame    []byte // all of it, from the Ethernet addresses on
	// Complete reports whether the checksum is right. It isn't in frames that
	// leave an interface with offloads on.
	Complete bool
}

// String writes the segment on one line.
func (s Segment) String() string {
	return fmt.Sprintf("%s > %s [%s] seq %d ack %d win %d len %d", s.Src, s.Dst, s.Flags, s.Seq, s.Ack, s.Win, s.Len)
}

// ParseSegment reads an Ethernet frame, tagged or not. It returns false if
// that holds no whole TCP header.
func ParseSegment(frame []byte) (Segment, bool) {
	s := Segment{Frame: frame}
	if len(frame) < 14 {
		return s, false
	}
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for (kind == unix.ETH_P_8021Q || kind == unix.ETH_P_8021AD) && len(rest) >= 4 {
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch {
	case kind == unix.ETH_P_IP && len(rest) >= 20:
		return s, s.parse4(rest)
	case kind == unix.ETH_P_IPV6 && len(rest) >= 40:
		return s, s.parse6(rest)
	}
	return s, false
}

func (s *Segment) parse4(ip []byte) bool {
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	fragment := binary.BigEndian.Uint16(ip[6:])&0x1fff != 0
	if ip[9] != unix.IPPROTO_TCP || fragment || head < 20 || len(ip) < head || total < head {
		return false
	}
	return s.parseTCP(ip[12:16], ip[16:20], ip[head:], total-head)
}

func (s *Segment) parse6(ip []byte) bool {
	next, rest := ip[6], ip[40:]
	total := int(binary.BigEndian.Uint16(ip[4:]))
	for next == unix.IPPROTO_HOPOPTS || next == unix.IPPROTO_ROUTING || next == unix.IPPROTO_DSTOPTS {
		if len(rest) < 8 {
			return false
		}
		size := 8 + int(rest[1])*8
		if len(rest) < size {
			return false
		}
		next, rest, total = rest[0], rest[size:], total-size
	}
	return next == unix.IPPROTO_TCP && s.parseTCP(ip[8:24], ip[24:40], rest, total)
}

// parseTCP reads a segment of length bytes, of which b may hold less, or more:
// short frames are padded.
func (s *Segment) parseTCP(src, dst, b []byte, length int) bool {
	b = b[:min(len(b), max(length, 0))]
	if len(b) < 20 {
		return false
	}
	head := int(b[12]>>4) * 4
	if head < 20 || len(b) < head {
		return false
	}
	be := binary.BigEndian
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	s.Src, s.Dst = netip.AddrPortFrom(from, be.Uint16(b)), netip.AddrPortFrom(to, be.Uint16(b[2:]))
	s.Seq, s.Ack = be.Uint32(b[4:]), be.Uint32(b[8:])
	s.Flags, s.Win = Flags(b[13]), be.Uint16(b[14:])
	s.Options, s.Payload, s.Len = b[20:head], b[head:], length-head
	s.Complete = len(b) == length &&
		fold(sum(src)+sum(dst)+unix.IPPROTO_TCP+uint64(length)+sum(b)) == 0xffff
	return true
}
