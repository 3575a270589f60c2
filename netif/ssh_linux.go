package netif

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	sshPort        = 22
	tcpEstablished = "01" // as /proc/net/tcp writes it, see proc(5)
)

// sshSessions returns the far ends of the SSH sessions to one of the
// addresses: whoever claims the card of one of them may lock himself out.
func sshSessions(addresses []message) []string {
	ports := []uint16{sshPort}
	if f := strings.Fields(os.Getenv("SSH_CONNECTION")); len(f) == 4 {
		if p, err := strconv.ParseUint(f[3], 10, 16); err == nil {
			ports = append(ports, uint16(p))
		}
	}
	var found []string
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // no such family, or no /proc: a warning less
		}
		found = append(found, sessionsIn(string(b), ports, addresses)...)
	}
	return found
}

// sessionsIn reads one table of connections.
func sessionsIn(table string, ports []uint16, addresses []message) []string {
	var found []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != tcpEstablished {
			continue
		}
		local, remote := hexAddrPort(f[1]), hexAddrPort(f[2])
		if slices.Contains(ports, local.Port()) && slices.ContainsFunc(addresses, func(a message) bool {
			return addressPrefix(a.Raw).Addr() == local.Addr()
		}) {
			found = append(found, remote.String())
		}
	}
	return found
}

// hexAddrPort reads an address of /proc/net/tcp: words in the machine's byte
// order, as hexadecimal numbers. The zero AddrPort is one it cannot read.
func hexAddrPort(s string) netip.AddrPort {
	a, p, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	port, perr := strconv.ParseUint(p, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b) // the zero Addr of a wrong length equals none
	return netip.AddrPortFrom(addr.Unmap(), uint16(port))
}
