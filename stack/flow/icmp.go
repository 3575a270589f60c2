package flow

import (
	"encoding/binary"

	"github.com/lastack/lastack/internal/tcpinfo"
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
	kept := good && f.has(carried)
	if kept && !tooSmall {
		f.narrow(icmp, l.Version)
	}
	if what := hintOf(icmp, l.Version); good && what != noHint {
		f.soft = what
		// gVisor would take it for the end of a handshake: the network may find a
		// way yet (RFC 9293, 3.9.2.2: "MUST NOT abort").
		kept = kept || !f.state.synchronized() && (what == softNetwork || what == softHost)
	}
	dialling := good && f.has(carried) && f.state == SynSent
	sh.mu.Unlock()
	if !good || tooSmall {
		t.Count.ICMP.Add(1)
		return frame.Drop
	}
	if dialling && refuses(icmp, l.Version) {
		t.unreachable(&s.key)
	}
	if kept {
		return frame.Consume
	}
	return frame.Pass
}

// refuses reports whether an ICMP error says that there is nobody to connect to, or
// that it is forbidden. In IPv4 the stack ends what it dials by the same ones, in
// IPv6 by an unreachable port alone.
func refuses(p []byte, version uint8) bool {
	if version == 6 {
		const unreachable, forbidden, port, policy, reject = 1, 1, 4, 5, 6
		return p[0] == unreachable && (p[1] == forbidden || p[1] == port || p[1] == policy || p[1] == reject)
	}
	const unreachable, protocol, port, netForbidden, hostForbidden, forbidden = 3, 2, 3, 9, 10, 13
	if p[0] != unreachable {
		return false
	}
	switch p[1] {
	case protocol, port, netForbidden, hostForbidden, forbidden:
		return true
	}
	return false
}

// unreachable gives up a backend of a direct connection that is not there (RFC
// 9293, 3.9.2.2: "TCP implementations SHOULD abort the connection").
func (t *Table) unreachable(k *key) {
	p, ok := t.lockPair(k)
	if !ok {
		return
	}
	if p.f.state == SynSent {
		p.failed(tcpinfo.Refused, t.now())
	}
	p.unlock()
	p.speak()
}

// narrow makes the segments of a carried leg fit what a router can pass on (RFC
// 1191, RFC 8201): what is larger is cut here, so the other peer need not know.
func (f *Flow) narrow(p []byte, version uint8) {
	const headers4, headers6 = 20 + tcpHeader, 40 + tcpHeader
	mtu, floor := 0, 0
	switch {
	case version == 4 && p[0] == 3 && p[1] == 4:
		mtu, floor = int(binary.BigEndian.Uint16(p[6:]))-headers4, minMTUv4-headers4
	case version == 6 && p[0] == 2:
		mtu, floor = int(min(binary.BigEndian.Uint32(p[4:]), 0xffff))-headers6, minMTUv6-headers6
	default:
		return
	}
	if mtu < floor {
		mtu = floor // a router older than RFC 1191 does not say
	}
	f.sndMSS = uint16(min(int(f.sndMSS), mtu))
}

// hintOf is what an ICMP error says of the peer.
func hintOf(p []byte, version uint8) hint {
	if version == 4 {
		switch [2]byte{p[0], p[1]} {
		case [2]byte{3, 0}:
			return softNetwork
		case [2]byte{3, 1}, [2]byte{3, 5}:
			return softHost
		case [2]byte{3, 2}:
			return softProtocol
		case [2]byte{3, 3}:
			return softPort
		}
		switch p[0] {
		case 11:
			return softTime
		case 12:
			return softParameter
		}
		return noHint
	}
	switch [2]byte{p[0], p[1]} {
	case [2]byte{1, 0}:
		return softNetwork
	case [2]byte{1, 3}:
		return softHost
	case [2]byte{1, 4}:
		return softPort
	}
	switch p[0] {
	case 3:
		return softTime
	case 4:
		return softParameter
	}
	return noHint
}

// hint is what the network said last of the peer, since it last acknowledged
// anything new.
type hint uint8

const (
	noHint hint = iota
	softNetwork
	softHost
	softProtocol
	softPort
	softTime
	softParameter
)

var hintNames = [...]tcpinfo.Hint{"", tcpinfo.NetworkUnreachable, tcpinfo.HostUnreachable, tcpinfo.ProtocolUnreachable,
	tcpinfo.PortUnreachable, tcpinfo.TimeExceeded, tcpinfo.ParameterProblem}

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
