package netif

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif/frame"
)

// wire is a veth pair: super-frames and partial checksums pass as they are.
func wire(t testing.TB, peer, card *lab.Host) uint16 {
	labtest.Wire(t, peer, "eth0", card, "eth0")
	return 0
}

// plainWire is a veth pair whose far end sends only whole frames.
func plainWire(t testing.TB, peer, card *lab.Host) uint16 {
	wire(t, peer, card)
	offload(t, peer, false)
	return 0
}

// claimedWire has a card taken from the kernel, with GRO on.
func claimedWire(t testing.TB, peer, card *lab.Host) uint16 {
	plainWire(t, peer, card)
	claimOn(t, card)
	return 0
}

// copperWire carries only whole frames, with nothing said about them.
func copperWire(t testing.TB, peer, card *lab.Host) uint16 {
	labtest.WireImpaired(t, peer, "eth0", card, "eth0", lab.Impairment{})
	return 0
}

func offload(t testing.TB, h *lab.Host, on bool) {
	t.Helper()
	if err := h.Offload("eth0", on); err != nil {
		t.Fatal(err)
	}
}

// taps are two tap devices whose files are tied together.
func taps(t testing.TB, peer, card *lab.Host) uint16 {
	tie(t, labtest.Tap(t, peer, "eth0"), labtest.Tap(t, card, "eth0"))
	return 0
}

// vnetTaps hand super-frames and partial checksums through, as a virtual
// machine's card does.
func vnetTaps(t testing.TB, peer, card *lab.Host) uint16 {
	tie(t, tapVnet(t, peer), tapVnet(t, card))
	return 0
}

// tapVnet makes the tap eth0 that leaves checksums and segmentation to the
// reader of its file.
func tapVnet(t testing.TB, h *lab.Host) *os.File {
	t.Helper()
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); errors.Is(err, os.ErrPermission) {
		t.Skipf("this user may not make taps: %v", err)
	} else if err == nil {
		_ = f.Close() // only tried
	}
	f, err := lab.TapVnet(h, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	labtest.Close(t, f)
	raw, err := f.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			err = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
		}), err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// tie copies frames between two files until the test ends.
func tie(t testing.TB, a, b *os.File) {
	var owned sync.WaitGroup
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		owned.Go(func() {
			frame := make([]byte, 128<<10)
			for {
				n, err := way[0].Read(frame)
				if errors.Is(err, os.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = way[1].Write(frame[:n]) // a frame that does not fit is lost, as on any cable
				}
			}
		})
	}
	t.Cleanup(func() {
		_, _ = a.Close(), b.Close() // their second closing is their owners'
		owned.Wait()
	})
}

const testVLAN = 10

// accessPort is a switch between the peer and a claimed card: the peer is in
// VLAN 10, which the card gets with its tag.
func accessPort(t testing.TB, peer, card *lab.Host) uint16 {
	sw := labtest.Host(t, "switch")
	labtest.Wire(t, peer, "eth0", sw, "access")
	labtest.Wire(t, card, "eth0", sw, "trunk")
	claimOn(t, card)
	offload(t, peer, false)
	offload(t, card, false)
	access, trunk := labtest.Raw(t, sw, "access"), labtest.Raw(t, sw, "trunk")
	var owned sync.WaitGroup
	forward(t, &owned, access, trunk, func(f []byte) []byte { return tagged(testVLAN, f) })
	forward(t, &owned, trunk, access, func(f []byte) []byte {
		vid, rest, ok := untag(f)
		if !ok || vid != testVLAN {
			t.Errorf("the card sent a frame that is not in VLAN %d: %x", testVLAN, f[:18])
			return nil
		}
		return rest
	})
	t.Cleanup(func() {
		_, _ = access.Close(), trunk.Close() // reported by their owners
		owned.Wait()
	})
	return testVLAN
}

// forward passes frames on, as f changes them, until a port is closed.
func forward(t testing.TB, owned *sync.WaitGroup, from, to *lab.Raw, f func([]byte) []byte) {
	ctx := t.Context()
	owned.Go(func() {
		for {
			in, err := from.Recv(ctx)
			if err != nil {
				return
			}
			if out := f(in.Data); out != nil {
				_ = to.Send(out) // a frame that does not fit is lost, as in any switch
			}
		}
	})
}

// untag takes the VLAN tag out of a frame.
func untag(f []byte) (vid uint16, rest []byte, ok bool) {
	if len(f) < frame.EthernetSize+tagSize || binary.BigEndian.Uint16(f[12:]) != frame.TypeVLAN {
		return 0, f, false
	}
	return binary.BigEndian.Uint16(f[14:]) & 0xfff, slices.Concat(f[:12], f[16:]), true
}

// vlanLink is a veth pair whose far end has a VLAN link of the kernel on it.
func vlanLink(t testing.TB, peer, card *lab.Host) uint16 {
	labtest.Wire(t, peer, "trunk0", card, "eth0")
	addVLAN(t, peer)
	return testVLAN
}

// claimedVLANLink has such a link at both ends, and the card is one: its tags
// are the kernel's matter.
func claimedVLANLink(t testing.TB, peer, card *lab.Host) uint16 {
	labtest.Wire(t, peer, "trunk0", card, "trunk0")
	addVLAN(t, peer)
	addVLAN(t, card)
	claimOn(t, card)
	return 0
}

// addVLAN makes eth0 of a host the link of VLAN 10 on its trunk0.
func addVLAN(t testing.TB, h *lab.Host) {
	t.Helper()
	err := h.Do(func() error { return netlinkVLAN("eth0", "trunk0") })
	if err == nil {
		err = h.SetUp("eth0", true)
	}
	needVLAN(t, err)
}

// netlinkVLAN makes a link of VLAN 10 on another link.
func netlinkVLAN(name, over string) error {
	trunk, err := netlink.LinkByName(over)
	if err != nil {
		return err
	}
	return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: trunk.Attrs().Index}, VlanId: testVLAN})
}

// needVLAN ends a test whose VLAN link could not be made: where this kernel has
// none it is a skip, as it is sure to run on the images' kernel.
func needVLAN(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VLAN links (8021q); make test-image runs this on the images' kernel, which has them")
	}
	if err != nil {
		t.Fatal(err)
	}
}
