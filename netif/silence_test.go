package netif

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/netif/frame"
)

// The machine under test has eth0 with 10.0.0.2 and fd00::2, and out0 with
// 10.8.0.1 and fd08::1; peer0 and peer1 are their other ends. It forwards, and
// knows its way back to 10.0.0.1 and fd00::1, where the probes come from, by
// eth0 and else by out0: nothing but the guard can keep it silent.
var (
	macPeer = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macEth0 = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// probe is a frame for eth0, and what the kernel answers to it.
type probe struct {
	frame  []byte
	answer string
}

func probes() []probe {
	const from4, from6 = "10.0.0.1", "fd00::1"
	var all []probe
	add := func(answer string, f []byte) { all = append(all, probe{f, answer}) }
	for _, own := range []string{"10.0.0.2", "10.8.0.1"} {
		add("arp reply from "+own, arpFor(own))
		add("echo reply from "+own, inEthernet(echo(from4, own)))
		add("reset from "+own, inEthernet(opening(from4, own)))
		add("unreachable from "+own, inEthernet(datagram(from4, own)))
	}
	for _, own := range []string{"fd00::2", "fd08::1"} {
		add("echo reply from "+own, inEthernet(echo(from6, own)))
		add("reset from "+own, inEthernet(opening(from6, own)))
	}
	add("advertisement from fd00::2", solicitation(from6, "fd00::2"))
	add("forwarded to 10.8.0.2", inEthernet(echo(from4, "10.8.0.2")))
	add("forwarded to fd08::2", inEthernet(echo(from6, "fd08::2")))
	add("echo reply from 10.0.0.2", tagged(0, inEthernet(echo(from4, "10.0.0.2"))))
	return all
}

// ip puts a transport payload into a packet and fills in its checksum at sum.
func ip(from, to string, proto byte, payload []byte, sum int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	var p, pseudo []byte
	if src.Is4() {
		p = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	} else {
		p = []byte{0x60, 0, 0, 0, 0, 0, proto, 255}
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	if src.Is4() {
		binary.BigEndian.PutUint16(p[10:], ^frame.Sum(p, 0))
	}
	if proto != unix.IPPROTO_ICMP {
		pseudo = append(append(pseudo, src.AsSlice()...), dst.AsSlice()...)
		pseudo = append(pseudo, 0, proto, byte(len(payload)>>8), byte(len(payload)))
	}
	binary.BigEndian.PutUint16(payload[sum:], ^frame.Sum(payload, frame.Sum(pseudo, 0)))
	return append(p, payload...)
}

func echo(from, to string) []byte {
	if netip.MustParseAddr(to).Is4() {
		return ip(from, to, unix.IPPROTO_ICMP, []byte{8, 0, 0, 0, 1, 2, 3, 4}, 2)
	}
	return ip(from, to, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 1, 2, 3, 4}, 2)
}

// opening is a SYN for a port where nobody listens.
func opening(from, to string) []byte {
	return ip(from, to, unix.IPPROTO_TCP, []byte{0x9c, 0x40, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0}, 16)
}

func datagram(from, to string) []byte {
	return ip(from, to, unix.IPPROTO_UDP, []byte{0x9c, 0x40, 0, 9, 0, 8, 0, 0}, 6)
}

func inEthernet(packet []byte) []byte {
	kind := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	return append(binary.BigEndian.AppendUint16(slices.Concat(macEth0, macPeer), kind), packet...)
}

func tagged(vlan uint16, f []byte) []byte {
	tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, vlan)
	return slices.Concat(f[:12], tag, f[12:])
}

func arpFor(own string) []byte {
	f := slices.Concat(net.HardwareAddr{255, 255, 255, 255, 255, 255}, macPeer, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		macPeer, []byte{10, 0, 0, 1}, make([]byte, 6), netip.MustParseAddr(own).AsSlice())
	return append(f, make([]byte, 18)...)
}

func solicitation(from, target string) []byte {
	t := netip.MustParseAddr(target).As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:], []byte{1, 1}, macPeer)
	f := inEthernet(ip(from, group.String(), unix.IPPROTO_ICMPV6, body, 2))
	copy(f, []byte{0x33, 0x33, 0xff, t[13], t[14], t[15]})
	return f
}

// answer says what a frame that the machine sent is an answer to, "" for others.
func answer(f []byte) string {
	if len(f) < 42 {
		return ""
	}
	p := f[14:]
	var src, dst netip.Addr
	var proto byte
	var body []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		if p[7] == 2 {
			return "arp reply from " + netip.AddrFrom4([4]byte(p[14:18])).String()
		}
		return ""
	case unix.ETH_P_IP:
		src, dst, proto, body = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), p[9], p[20:]
	case unix.ETH_P_IPV6:
		src, dst, proto, body = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), p[6], p[40:]
	default:
		return ""
	}
	if proto == unix.IPPROTO_TCP {
		if body[13]&4 != 0 {
			return "reset from " + src.String()
		}
		return ""
	}
	switch [2]byte{proto, body[0]} {
	case [2]byte{unix.IPPROTO_ICMP, 0}, [2]byte{unix.IPPROTO_ICMPV6, 129}:
		return "echo reply from " + src.String()
	case [2]byte{unix.IPPROTO_ICMP, 3}:
		return "unreachable from " + src.String()
	case [2]byte{unix.IPPROTO_ICMPV6, 136}:
		return "advertisement from " + src.String()
	case [2]byte{unix.IPPROTO_ICMP, 8}, [2]byte{unix.IPPROTO_ICMPV6, 128}:
		return "forwarded to " + dst.String()
	}
	return ""
}

// tap is a packet socket of a test: it sees frames as they arrive.
type tap struct {
	t  testing.TB
	fd int
}

func (r *room) tap(name string) *tap {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	r.must(err)
	r.t.Cleanup(func() { _ = unix.Close(fd) })
	r.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	r.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: r.link(name).Attrs().Index}))
	return &tap{r.t, fd}
}

func (s *tap) send(f []byte) {
	s.t.Helper()
	if _, err := unix.Write(s.fd, f); err != nil {
		s.t.Fatalf("send: %v", err)
	}
}

// next returns the next frame of any of the taps, nil if none comes in time.
func next(within time.Duration, taps ...*tap) []byte {
	var fds []unix.PollFd
	for _, s := range taps {
		fds = append(fds, unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN})
	}
	if n, err := unix.Poll(fds, int(within.Milliseconds())); err != nil || n == 0 {
		return nil
	}
	buf := make([]byte, 2048)
	for i, fd := range fds {
		if fd.Revents != 0 {
			if n, err := unix.Read(taps[i].fd, buf); err == nil {
				return buf[:n]
			}
		}
	}
	return []byte{}
}

// collect returns the answers in what arrives, until done or the time is up.
func collect(within time.Duration, done func(found []string) bool, taps ...*tap) []string {
	var found []string
	for end := time.Now().Add(within); !done(found); {
		left := time.Until(end)
		f := next(max(left, 0), taps...)
		if f == nil && left <= 0 {
			break
		}
		if a := answer(f); a != "" && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	slices.Sort(found)
	return found
}

// street is the machine under test and its surroundings.
type street struct {
	machine, outside *room
	near, far        *tap // peer0 and peer1: what the machine sends
	own              *tap // eth0: what arrives there, claimed or not
}

func newStreet(t testing.TB) *street {
	t.Helper()
	s := &street{machine: newRoom(t), outside: newRoom(t)}
	m, o := s.machine, s.outside
	veth(m, "eth0", o, "peer0")
	veth(m, "out0", o, "peer1")
	var macOut net.HardwareAddr
	o.do(func() {
		o.must(netlink.LinkSetHardwareAddr(o.link("peer0"), macPeer))
		macOut = o.link("peer1").Attrs().HardwareAddr
		s.near, s.far = o.tap("peer0"), o.tap("peer1")
	})
	m.do(func() {
		m.must(netlink.LinkSetHardwareAddr(m.link("eth0"), macEth0))
		for _, name := range []string{"all", "eth0", "out0"} {
			m.sysctl("ipv4/conf/"+name+"/rp_filter", "0")
		}
		m.sysctl("ipv4/ip_forward", "1")
		m.sysctl("ipv6/conf/all/forwarding", "1")
		m.sysctl("ipv4/icmp_ratelimit", "0")
		for name, addrs := range map[string][]string{"eth0": {"10.0.0.2/24", "fd00::2/64"}, "out0": {"10.8.0.1/24", "fd08::1/64"}} {
			for _, a := range addrs {
				addr := &netlink.Addr{IPNet: prefix(a)}
				if strings.Contains(a, ":") {
					addr.Flags = unix.IFA_F_NODAD
				}
				m.address(name, addr)
			}
			m.settle(name)
		}
		for _, n := range []struct {
			link, ip string
			mac      net.HardwareAddr
		}{{"eth0", "10.0.0.1", macPeer}, {"eth0", "fd00::1", macPeer}, {"out0", "10.8.0.2", macOut}, {"out0", "fd08::2", macOut}} {
			m.must(netlink.NeighSet(&netlink.Neigh{LinkIndex: m.link(n.link).Attrs().Index, IP: net.ParseIP(n.ip),
				State: netlink.NUD_PERMANENT, HardwareAddr: n.mac}))
		}
		for dst, via := range map[string]string{"0.0.0.0/0": "10.8.0.2", "::/0": "fd08::2"} {
			m.must(netlink.RouteAdd(&netlink.Route{LinkIndex: m.link("out0").Attrs().Index, Dst: prefix(dst), Gw: net.ParseIP(via)}))
		}
		s.own = m.tap("eth0")
	})
	return s
}

// answers sends every probe and returns what the machine answers. Each probe
// has reached eth0 when it returns.
func (s *street) answers(t testing.TB, want []string) []string {
	t.Helper()
	all := probes()
	for _, p := range all {
		s.near.send(p.frame)
	}
	for i, p := range all { // among what the outside's kernel sends by itself
		want := p.frame
		if binary.BigEndian.Uint16(want[12:]) == unix.ETH_P_8021Q {
			want = slices.Concat(want[:12], want[16:]) // a packet socket gets the tag apart
		}
		for got := []byte(nil); !bytes.Equal(got, want); {
			if got = next(5*time.Second, s.own); got == nil {
				t.Fatalf("only %d of %d probes reached eth0", i, len(all))
			}
		}
	}
	within := 5 * time.Second
	if len(want) == 0 {
		within = 300 * time.Millisecond // answers are made as the probes arrive
	}
	return collect(within, func(found []string) bool { return len(want) > 0 && len(found) == len(want) }, s.near, s.far)
}

func TestKernelIsSilentOnAClaimedCard(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	var want []string
	for _, p := range probes() {
		want = append(want, p.answer)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	if got := s.answers(t, want); !slices.Equal(got, want) {
		t.Fatalf("before the claim the kernel answers\n%q, want\n%q", got, want)
	}
	var nic *NIC
	s.machine.do(func() {
		var err error
		nic, err = Claim("eth0", ClaimOptions{StateDir: t.TempDir()})
		s.machine.must(err)
	})
	if got := s.answers(t, nil); len(got) > 0 {
		t.Errorf("while eth0 is claimed the kernel answers %q, want nothing", got)
	}
	s.machine.do(func() { s.machine.must(nic.Release()) })
	if got := s.answers(t, want); !slices.Equal(got, want) {
		t.Errorf("after the release the kernel answers\n%q, want\n%q", got, want)
	}
}

func TestClaimGoesOnWithoutGuard(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	m := s.machine
	m.do(func() {
		index := m.link("eth0").Attrs().Index
		// Filters of a block that is shared belong to no single card.
		const ingressBlock = 13 // TCA_INGRESS_BLOCK
		m.must(send(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
			appendAttribute(clsact(index), ingressBlock, binary.NativeEndian.AppendUint32(nil, 7))))
		before := m.picture("eth0")
		var log bytes.Buffer
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		m.must(err)
		if nic.Guard() != "" || !strings.Contains(log.String(), "the kernel still sees what arrives on this card") {
			t.Errorf("guard is %q and the log says\n%s\nwant none and a warning", nic.Guard(), log.String())
		}
		// This is what the warning is about.
		got := s.answers(t, []string{"echo reply from 10.8.0.1", "reset from 10.8.0.1", "unreachable from 10.8.0.1"})
		if want := []string{"echo reply from 10.8.0.1", "reset from 10.8.0.1", "unreachable from 10.8.0.1"}; !slices.Equal(got, want) {
			t.Errorf("without guard the kernel answers %q, want %q", got, want)
		}
		m.must(nic.Release())
		m.restored("eth0", before)
	})
}

func TestGuardSparesVLANs(t *testing.T) {
	t.Parallel()
	r, other := newRoom(t), newRoom(t)
	veth(r, "eth0", other, "peer0")
	var out, in *tap
	other.do(func() { out = other.tap("peer0") })
	r.do(func() {
		r.must(netlink.LinkSetHardwareAddr(r.link("eth0"), macEth0))
		index := r.link("eth0").Attrs().Index
		// A macvlan gets what has passed the card's ingress, and takes tags as they come.
		mv := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: index}, Mode: netlink.MACVLAN_MODE_PASSTHRU}
		r.must(netlink.LinkAdd(mv))
		r.must(netlink.LinkSetUp(mv))
		in = r.tap("mv0")
		packet := func(n byte) []byte { return append(inEthernet(echo("10.0.0.1", "10.0.0.2")), n) }
		passes := func(want []byte) {
			r.t.Helper()
			for i, f := range [][]byte{packet(0), tagged(0, packet(1)), tagged(7<<13, packet(2)), tagged(10, packet(3)), tagged(4094, packet(4))} {
				out.send(f)
				if got := next(200*time.Millisecond, in); slices.Contains(want, byte(i)) != (got != nil) {
					t.Errorf("frame %d passed: %v, want those of %d", i, got != nil, want)
				}
			}
		}
		for next(time.Second, in) != nil { // until the links have said hello
		}
		passes([]byte{0, 1, 2, 3, 4})
		kind, err := setGuard(index, true)
		r.must(err)
		if kind != guardBPF {
			t.Errorf("guard is %q, want %q", kind, guardBPF)
		}
		passes([]byte{3, 4})
		_, err = setGuard(index, false)
		r.must(err)
		passes(nil)
		r.must(removeGuard(index, false))
		passes([]byte{0, 1, 2, 3, 4})
	})
}

// Links of the kernel on a claimed card are what VLANs are spared for.
func TestVLANLinkOnAClaimedCardGoesOn(t *testing.T) {
	t.Parallel()
	r, other := newRoom(t), newRoom(t)
	veth(r, "eth0", other, "peer0")
	var made error
	for _, end := range []struct {
		*room
		over, own4, own6 string
	}{{r, "eth0", "10.9.0.1", "fd09::1"}, {other, "peer0", "10.9.0.2", "fd09::2"}} {
		end.do(func() {
			if made = netlinkVLAN("vlan0", end.over); made != nil {
				return
			}
			end.up("vlan0")
			end.address("vlan0", &netlink.Addr{IPNet: prefix(end.own4 + "/24")})
			end.address("vlan0", &netlink.Addr{IPNet: prefix(end.own6 + "/64"), Flags: unix.IFA_F_NODAD})
			for _, own := range []string{end.own4, end.own6} {
				l, err := net.Listen("tcp", net.JoinHostPort(own, "7"))
				end.must(err)
				t.Cleanup(func() { _ = l.Close() }) // nobody is there any more
			}
		})
		needVLAN(t, made)
	}
	reach := func(from *room, peers ...string) {
		t.Helper()
		from.do(func() {
			for _, peer := range peers {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(peer, "7"), 10*time.Second)
				if err != nil {
					t.Errorf("over the VLAN: %v", err)
					continue
				}
				_ = c.Close() // only opened
			}
		})
	}
	both := func() {
		t.Helper()
		reach(r, "10.9.0.2", "fd09::2")
		reach(other, "10.9.0.1", "fd09::1")
	}
	both()
	r.do(func() {
		before := r.picture("eth0")
		var log bytes.Buffer
		nic, err := Claim("eth0", ClaimOptions{StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		r.must(err)
		r.checkClaimed(nic, 1500)
		if strings.Contains(log.String(), "gets no frames") {
			t.Errorf("the log says what is not so:\n%s", log.String())
		}
		both()
		r.must(nic.Release())
		r.restored("eth0", before)
		both()
	})
}

func TestSessionsAreReadFromTheKernelsTable(t *testing.T) {
	table := "  sl  local_address rem_address   st\n" +
		fmt.Sprintf("   0: %08X:0016 %08X:C350 01 x\n", native4(10, 0, 0, 2), native4(10, 0, 0, 1)) + // ours
		fmt.Sprintf("   1: %08X:0016 %08X:0000 0A x\n", native4(10, 0, 0, 2), 0) + // listening
		fmt.Sprintf("   2: %08X:0050 %08X:C350 01 x\n", native4(10, 0, 0, 2), native4(10, 0, 0, 1)) + // a web server
		fmt.Sprintf("   3: %08X:0016 %08X:C350 01 x\n", native4(10, 0, 0, 9), native4(10, 0, 0, 1)) + // another card
		"   4: nonsense:0016 01:C350 01 x\n"
	own := message{Raw: appendAttribute([]byte{unix.AF_INET, 24, 0, 0, 0, 0, 0, 0}, unix.IFA_LOCAL, []byte{10, 0, 0, 2})}
	got := sessionsIn(table, []uint16{22}, []message{own})
	if want := []string{"10.0.0.1:50000"}; !slices.Equal(got, want) {
		t.Errorf("sessions are %q, want %q", got, want)
	}
}

func native4(a, b, c, d byte) uint32 { return binary.NativeEndian.Uint32([]byte{a, b, c, d}) }
