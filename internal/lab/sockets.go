package lab

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// State is the state of a kernel TCP socket, with the kernel's numbers.
type State uint8

// The states, as in net/tcp_states.h.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Closed
	CloseWait
	LastAck
	Listening
	Closing
	NewSynRecv
)

var stateNames = [...]string{
	"UNKNOWN", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2",
	"TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECV",
}

// String returns the state's name.
func (s State) String() string {
	if int(s) >= len(stateNames) {
		return stateNames[0]
	}
	return stateNames[s]
}

// Socket is one TCP socket of a host's kernel.
type Socket struct {
	Local, Remote netip.AddrPort
	State         State
	SendQueue     int // bytes not yet acknowledged
	RecvQueue     int // bytes not yet read; in a listener, connections not yet accepted
}

// TCPSockets lists the TCP sockets of the host in all states.
func (h *Host) TCPSockets() ([]Socket, error) {
	var all []Socket
	err := h.Do(func() error {
		for _, table := range []string{"tcp", "tcp6"} {
			some, err := readSockets("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			all = append(all, some...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the TCP sockets of %s: %w", h.name, err)
	}
	return all, nil
}

// CountTCP counts the TCP sockets of the host by state.
func (h *Host) CountTCP() (map[State]int, error) {
	all, err := h.TCPSockets()
	count := make(map[State]int)
	for _, s := range all {
		count[s.State]++
	}
	return count, err
}

// readSockets reads a table of proc_net_tcp, networking/proc_net_tcp in the
// kernel's documentation. A kernel without IPv6 lacks the one of tcp6.
func readSockets(file string) ([]Socket, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseSockets(f)
}

func parseSockets(r io.Reader) ([]Socket, error) {
	var all []Socket
	lines := bufio.NewScanner(r)
	lines.Scan() // the headings
	for lines.Scan() {
		s, err := parseSocket(strings.Fields(lines.Text()))
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		all = append(all, s)
	}
	return all, lines.Err()
}

func parseSocket(fields []string) (Socket, error) {
	if len(fields) < 5 {
		return Socket{}, errors.New("too few fields")
	}
	local, err1 := parseHexAddr(fields[1])
	remote, err2 := parseHexAddr(fields[2])
	state, err3 := strconv.ParseUint(fields[3], 16, 8)
	send, recv, _ := strings.Cut(fields[4], ":")
	sendQueue, err4 := strconv.ParseUint(send, 16, 32)
	recvQueue, err5 := strconv.ParseUint(recv, 16, 32)
	return Socket{
		Local: local, Remote: remote, State: State(state),
		SendQueue: int(sendQueue), RecvQueue: int(recvQueue),
	}, errors.Join(err1, err2, err3, err4, err5)
}

// parseHexAddr reads words of 32 bits in the machine's order, as in
// "0100007F:0050".
func parseHexAddr(s string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("no address: %q", s)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// TCPInfo asks the kernel about a TCP connection, see tcp(7).
func TCPInfo(conn net.Conn) (unix.TCPInfo, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return unix.TCPInfo{}, fmt.Errorf("get TCP_INFO: a %T has no socket", conn)
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return unix.TCPInfo{}, fmt.Errorf("get TCP_INFO: %w", err)
	}
	var info *unix.TCPInfo
	if err2 := rc.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err2 != nil {
		err = err2
	}
	if err != nil {
		return unix.TCPInfo{}, fmt.Errorf("get TCP_INFO: %w", err)
	}
	return *info, nil
}
