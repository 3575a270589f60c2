package netif

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settableFlags are the link flags an operator sets, IFF_UP apart.
const settableFlags = unix.IFF_NOARP | unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_MULTICAST | unix.IFF_DEBUG

// releaseCrashed does what Release says.
func (k *keeper) releaseCrashed(name string) error {
	if err := checkCapabilities(); err != nil {
		return err
	}
	if name == "" || strings.Contains(name, "/") {
		return errors.New("this is not the name of a network card")
	}
	unlock, err := lockDir(k.dir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := loadState(k.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it is not claimed: there is no file %s", statePath(k.dir, name))
	}
	if err != nil {
		return err
	}
	at, err := here()
	if err != nil {
		return err
	}
	if s.Boot == at.Boot && k.alive(s.Owner) {
		return held(s, at)
	}
	return k.undo(s, (*state).stale)
}

// release puts back what s remembers and forgets it.
func (k *keeper) release(s *state, stale staleFunc) error {
	unlock, err := lockDir(k.dir)
	if err != nil {
		return err
	}
	defer unlock()
	return k.undo(s, stale)
}

// undo is release under the lock. What belongs to a card that is gone cannot
// be put back: the state is forgotten, and only a new card in its place is
// worth an error.
func (k *keeper) undo(s *state, stale staleFunc) error {
	at, err := here()
	if err != nil {
		return err
	}
	if s.Boot == at.Boot && s.Namespace != at.Namespace {
		return errors.New("its state file is of another network namespace: release it there")
	}
	link, err := s.find()
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		k.log.Warn("the network card is gone, there is nothing to put back", "nic", s.Name)
		return removeState(k.dir, s.Name)
	}
	if err != nil {
		return fmt.Errorf("look it up: %w", err)
	}
	if why := stale(s, link.Attrs(), at); why != "" {
		return errors.Join(fmt.Errorf("its state file does not apply any more, so nothing was put back: %s", why), removeState(k.dir, s.Name))
	}
	if err := k.restore(s, link); err != nil {
		return err
	}
	k.log.Info("gave the network card back to the kernel", "nic", s.Name, "addresses", texts(s.Original.Addresses))
	return removeState(k.dir, s.Name)
}

// find looks the card up, under a new name if it was given one meanwhile.
func (s *state) find() (netlink.Link, error) {
	link, err := netlink.LinkByName(s.Name)
	if err == nil {
		return link, nil
	}
	if other, oerr := netlink.LinkByIndex(s.Index); oerr == nil && other.Attrs().HardwareAddr.String() == s.MAC {
		return other, nil
	}
	return nil, err
}

// restore makes the card what it was, from whatever it is now: each step
// compares and changes what differs, so that it works after a crash at any
// point of a claim or of a release. The guard goes last.
func (k *keeper) restore(s *state, link netlink.Link) error {
	was, index, name := &s.Original, s.Index, link.Attrs().Name
	elapsed := max(uptime(), s.Taken) - s.Taken
	up := was.Flags & unix.IFF_UP
	return k.all([]step{
		// Before the addresses: without ARP the kernel would not join their multicast groups.
		{"flags", func() error { return setFlags(index, was.Flags&settableFlags, settableFlags) }},
		{"mtu", func() error { return setMTU(link, was.MTU) }},
		// Before the addresses: taking a link down costs it the IPv6 ones.
		{"up", func() error { return wrap("put back the link state", setFlags(index, up, unix.IFF_UP)) }},
		{"settings", func() error { return restoreSysctls(name, was.Sysctls, sysctlDisableIPv6, sysctlAcceptDAD) }},
		{"offloads", func() error { return restoreFeatures(name, was.Features) }},
		{"ipv6", func() error { return restoreIPv6(name, was) }},
		{"addresses", func() error { return restoreAddresses(index, was.Addresses, elapsed) }},
		{"detection", func() error { return restoreDetection(name, index, was) }},
		{"neighbours", func() error { return restoreNeighbours(was.Neighbours) }},
		{"routes", func() error { return restoreRoutes(index, was.Routes, was.Addresses, elapsed) }},
		{"guard", func() error { return removeGuard(index, was.Ingress) }},
	})
}

// all runs every step and joins the errors.
func (k *keeper) all(steps []step) error {
	var errs []error
	for _, s := range steps {
		errs = append(errs, s.do())
		if k.step != nil {
			errs = append(errs, k.step(s.name))
		}
	}
	return errors.Join(errs...)
}

func setMTU(link netlink.Link, mtu int) error {
	if now, err := netlink.LinkByIndex(link.Attrs().Index); err == nil && now.Attrs().MTU == mtu {
		return nil
	}
	return wrap(fmt.Sprintf("set the MTU to %d", mtu), netlink.LinkSetMTU(link, mtu))
}

// restoreIPv6 turns IPv6 on again if it was. Its addresses had passed
// duplicate detection and are used again at once, unless one had not.
func restoreIPv6(name string, was *snapshot) error {
	value, ok := was.Sysctls[sysctlDisableIPv6]
	if !ok {
		return nil
	}
	var err error
	if _, ok := was.Sysctls[sysctlAcceptDAD]; ok && value == "0" && !slices.ContainsFunc(was.Addresses, isTentative) {
		if now, rerr := readSysctl(name, sysctlDisableIPv6); rerr == nil && now != value {
			err = writeSysctl(name, sysctlAcceptDAD, "0")
		}
	}
	return errors.Join(err, writeSysctl(name, sysctlDisableIPv6, value))
}

// restoreDetection ends the time without duplicate detection, once the kernel
// has taken the addresses. The other settings are looked at again: turning
// IPv6 on has reset its MTU.
func restoreDetection(name string, index int, was *snapshot) error {
	return errors.Join(settleAddresses(index, was.Addresses), restoreSysctls(name, was.Sysctls))
}
