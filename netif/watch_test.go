package netif

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
	"github.com/lastack/lastack/netif/frame"
)

// inCard runs f with the card's host as the calling thread's namespace.
func (r *rig) inCard(f func() error) {
	r.t.Helper()
	if err := r.card.Do(f); err != nil {
		r.t.Fatal(err)
	}
}

// A card that was lent to another namespace comes back with its old number.
func TestCardThatComesBackWithItsNumberIsPickedUp(t *testing.T) {
	const number = 77
	r := &rig{t: t, card: labtest.Host(t, "card")}
	add := func() {
		r.inCard(func() error {
			a := netlink.LinkAttrs{Name: "eth0", Index: number, NetNsID: -1, TxQLen: -1}
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far0"})
		})
		r.setUp(r.card, true)
		if err := r.card.SetUp("far0", true); err != nil {
			t.Fatal(err)
		}
	}
	add()
	r.e = openOn(t, r.card, EndpointOptions{Queues: 1})
	for range 2 {
		until(t, "the card is seen to be up", r.e.Up)
		raw := labtest.Raw(t, r.card, "far0")
		before := r.e.Counters()
		r.mustSend(raw, multicast())
		until(t, "the card receives", func() bool { return r.e.Counters().RxFrames > before.RxFrames })
		r.e.Send(frame.Header{}, multicast(), nil)
		if got := r.e.Counters().TxFrames; got != before.TxFrames+1 {
			t.Errorf("%d frames were sent, want %d; %+v", got, before.TxFrames+1, r.e.Counters())
		}
		if err := r.card.RemoveLink("eth0"); err != nil {
			t.Fatal(err)
		}
		add()
	}
}

// multicast is a frame that every host may take.
func multicast() []byte {
	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, peerMAC[:]...)
	return append(f, append([]byte{0x88, 0xb5}, make([]byte, 46)...)...)
}

func (r *rig) mustSend(raw *lab.Raw, f []byte) {
	r.t.Helper()
	if err := raw.Send(f); err != nil {
		r.t.Fatal(err)
	}
}

func TestRenamedCardIsStillFollowed(t *testing.T) {
	r := newRig(t, wire, EndpointOptions{Queues: 1})
	err := r.card.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetName(link, "wan0")
	})
	if err == unix.EBUSY {
		t.Skip("this kernel renames no card that is up")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.card.SetMTU("wan0", 1400); err != nil {
		t.Fatal(err)
	}
	until(t, "the MTU of the renamed card is known", func() bool { return r.port.MTU() == 1400 })
	r.exchange(families[0].ours)
}

func TestPortThatLeavesABridgeIsNotGone(t *testing.T) {
	r := newRig(t, wire, EndpointOptions{Queues: 1})
	before := r.e.Counters().LinkChanges
	r.inCard(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(eth0, bridge); err != nil {
			return err
		}
		return netlink.LinkSetNoMaster(eth0)
	})
	if err := r.card.SetMTU("eth0", 1400); err != nil {
		t.Fatal(err)
	}
	until(t, "the news have come", func() bool { return r.port.MTU() == 1400 })
	if got := r.e.Counters().LinkChanges - before; got != 1 {
		t.Errorf("%d changes were seen, want only the MTU: the card was never gone", got)
	}
	r.exchange(families[0].ours)
}

// The kernel drops news that nobody reads, and says so once.
func TestMissedNewsAreMadeUpFor(t *testing.T) {
	r := newRig(t, wire, EndpointOptions{Queues: 1})
	r.inCard(func() error {
		r.e.mu.Lock() // the watcher stops at the next news of the card
		defer r.e.mu.Unlock()
		if err := r.card.SetMTU("eth0", 1450); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for i := range 2000 {
			if err := netlink.LinkSetMTU(lo, 60000+i); err != nil {
				return fmt.Errorf("change lo: %w", err)
			}
		}
		return r.card.SetMTU("eth0", 1400)
	})
	until(t, "the MTU that was missed is known", func() bool { return r.port.MTU() == 1400 })
	if err := r.card.SetMTU("eth0", 1300); err != nil {
		t.Fatal(err)
	}
	until(t, "the next MTU is known", func() bool { return r.port.MTU() == 1300 })
}
