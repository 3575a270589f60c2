package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/netif/frame"
)

const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// The smallest MTU that is believed: Linux's net.ipv4.route.min_pmtu, because
// a forged smaller one makes segments of a few bytes; RFC 8200, 5.
const (
	minMTUv4 = 552
	minMTUv6 = 1280
)

// inboundICMP lets an ICMP error about TCP pass only if it quotes a segment
// that may be on its way (RFC 5927, 4.1): an error is a word about our own
// segment, and who cannot name it has not seen it.
func (t *Table) inboundICMP(p []byte, l frame.Layout) frame.Verdict {
	icmp := p[l.Transport:l.End]
	quote, tooSmall, isError := readICMP(icmp, l.Version)
	if !isError {
		return frame.Pass
	}
	var s segment
	if !s.readQuote(quote, l.Version) {
		return frame.Pass // not about TCP
	}
	sh, h := t.shard(&s.key)
	sh.mu.Lock()
	f, _ := sh.find(&s.key, h)
	good := f != nil && f.state != TimeWait && f.state != Closed && f.outstanding(s.seq)
	kept := good && !f.state.synchronized() && f.hint(icmp, l.Version)
	sh.mu.Unlock()
	if !good || tooSmall {
		t.Count.ICMP.Add(1)
		return frame.Drop
	}
	if kept {
		return frame.Consume
	}
	return frame.Pass
}

// hint keeps a soft error about a handshake, which gVisor would take for its
// end: the network may find a way yet (RFC 9293, 3.9.2.2: "MUST NOT abort").
func (f *Flow) hint(p []byte, version uint8) (soft bool) {
	kind, code := p[0], p[1]
	switch {
	case version == 4 && kind == 3 && code == 0, version == 6 && kind == 1 && code == 0:
		f.soft = softNetwork
	case version == 4 && kind == 3 && (code == 1 || code == 5), version == 6 && kind == 1 && code == 3:
		f.soft = softHost
	default:
		return false
	}
	return true
}

// What the network said last of a handshake's peer.
const (
	softNetwork = 1 + iota
	softHost
)

// readICMP takes an ICMP error apart: what it quotes, and whether it wants
// packets that are too small.
func readICMP(p []byte, version uint8) (quote []byte, tooSmall, isError bool) {
	if len(p) < 8 {
		return nil, false, false
	}
	if version == 4 {
		const unreachable, quench, redirect, exceeded, parameter, fragNeeded = 3, 4, 5, 11, 12, 4
		switch p[0] {
		case unreachable, quench, exceeded, parameter:
		default:
			return nil, false, false
		}
		// An MTU of zero comes from routers older than RFC 1191: gVisor guesses.
		mtu := binary.BigEndian.Uint16(p[6:])
		return p[8:], p[0] == unreachable && p[1] == fragNeeded && mtu != 0 && mtu < minMTUv4, true
	}
	const unreachable, tooBig, exceeded, parameter = 1, 2, 3, 4
	if p[0] < unreachable || p[0] > parameter {
		return nil, false, false
	}
	return p[8:], p[0] == tooBig && binary.BigEndian.Uint32(p[4:]) < minMTUv6, true
}

// readQuote reads the start of a packet of ours that an ICMP error quotes: at
// least the ports and the sequence number.
func (s *segment) readQuote(p []byte, version uint8) bool {
	at := 40
	if version == 4 {
		if len(p) < 20 || p[0]>>4 != 4 || p[9] != frame.ProtoTCP {
			return false
		}
		at = int(p[0]&15) * 4
	} else if len(p) < at || p[0]>>4 != 6 || p[6] != frame.ProtoTCP {
		return false
	}
	if len(p) < at+8 {
		return false
	}
	s.version = version
	s.key.name(p, version, p[at:], false)
	s.seq = binary.BigEndian.Uint32(p[at+4:])
	return true
}

// outstanding reports whether a segment that starts there may be under way:
// SND.UNA <= SEG.SEQ < SND.NXT.
func (f *Flow) outstanding(seq uint32) bool {
	return !before(seq, f.sndUna) && before(seq, f.sndNxt)
}
