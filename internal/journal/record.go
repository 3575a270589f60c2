package journal

import (
	"encoding/binary"
	"net/netip"
)

// Conn is what has to be known of a connection to end it at its peer: enough
// for one segment that the peer answers with where it is.
type Conn struct {
	Local, Remote netip.AddrPort
	Seq           uint32 // of ours, and acknowledged by the peer: SND.UNA-1
	Ack           uint32 // RCV.NXT
	Window        uint16 // as in the last header of ours
	Timestamps    bool   // both ends have agreed to send them
	TSVal         uint32 // what our clock for this connection says at the time of writing, in milliseconds
	TSRecent      uint32 // the peer's last
	MAC           [6]byte
	Tagged        bool // its frames carry an 802.1Q tag
	VLAN          uint16
	Left          uint32 // of one in TIME-WAIT: milliseconds until it is over
}

// RecordSize is the size of a connection in the file, in bytes.
const RecordSize = 68

const (
	hasTimestamps = 1 << iota
	isTagged
)

func (c *Conn) write(p *[RecordSize]byte) {
	be := binary.BigEndian
	local, remote := c.Local.Addr().As16(), c.Remote.Addr().As16()
	copy(p[:], local[:])
	copy(p[16:], remote[:])
	be.PutUint16(p[32:], c.Local.Port())
	be.PutUint16(p[34:], c.Remote.Port())
	be.PutUint32(p[36:], c.Seq)
	be.PutUint32(p[40:], c.Ack)
	be.PutUint32(p[44:], c.TSVal)
	be.PutUint32(p[48:], c.TSRecent)
	copy(p[52:], c.MAC[:])
	be.PutUint16(p[58:], c.VLAN)
	be.PutUint16(p[60:], c.Window)
	p[62], p[63] = 0, 0
	be.PutUint32(p[64:], c.Left)
	if c.Timestamps {
		p[62] |= hasTimestamps
	}
	if c.Tagged {
		p[62] |= isTagged
	}
}

func (c *Conn) read(p []byte) {
	be := binary.BigEndian
	*c = Conn{
		Local:  netip.AddrPortFrom(netip.AddrFrom16([16]byte(p)).Unmap(), be.Uint16(p[32:])),
		Remote: netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[16:])).Unmap(), be.Uint16(p[34:])),
		Seq:    be.Uint32(p[36:]), Ack: be.Uint32(p[40:]), Window: be.Uint16(p[60:]),
		Timestamps: p[62]&hasTimestamps != 0, TSVal: be.Uint32(p[44:]), TSRecent: be.Uint32(p[48:]),
		MAC: [6]byte(p[52:]), Tagged: p[62]&isTagged != 0, VLAN: be.Uint16(p[58:]),
		Left: be.Uint32(p[64:]),
	}
}
