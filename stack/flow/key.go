package flow

import (
	"encoding/binary"
	"net/netip"
)

// key names a connection: both addresses, IPv4 mapped into IPv6, and both
// ports. It is compared and hashed as bytes.
type key struct {
	local, remote [16]byte
	lport, rport  uint16
}

func keyOf(local, remote netip.AddrPort) key {
	return key{local.Addr().As16(), remote.Addr().As16(), local.Port(), remote.Port()}
}

// name writes the addresses of an IP packet into the key.
func (k *key) name(p []byte, version uint8, ports []byte, inbound bool) {
	local, remote := &k.local, &k.remote
	lport, rport := &k.lport, &k.rport
	if inbound {
		local, remote, lport, rport = remote, local, rport, lport
	}
	if version == 4 {
		mapped(local, p[12:16])
		mapped(remote, p[16:20])
	} else {
		copy(local[:], p[8:24])
		copy(remote[:], p[24:40])
	}
	*lport, *rport = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
}

func mapped(to *[16]byte, v4 []byte) {
	*to = [16]byte{10: 0xff, 11: 0xff}
	copy(to[12:], v4)
}

func (k *key) localAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(k.local).Unmap(), k.lport)
}

func (k *key) remoteAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(k.remote).Unmap(), k.rport)
}

// sane reports whether the remote address can be another host's.
func (k *key) sane() bool {
	a := k.remoteAddr().Addr()
	return !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) &&
		k.rport != 0 && k.remote != k.local
}

// hash spreads connections over shards and their indexes. seed keeps others
// from choosing connections that collide.
func (k *key) hash(seed uint64) uint64 {
	h := seed
	for _, part := range [...]uint64{
		binary.LittleEndian.Uint64(k.local[:]), binary.LittleEndian.Uint64(k.local[8:]),
		binary.LittleEndian.Uint64(k.remote[:]), binary.LittleEndian.Uint64(k.remote[8:]),
		uint64(k.lport)<<16 | uint64(k.rport),
	} {
		h = mix(h^part, 0x9e3779b97f4a7c15^seed)
	}
	return h
}
