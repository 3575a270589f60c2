package netif

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// keeper claims and releases cards. Tests set its last two fields.
type keeper struct {
	dir string
	log *slog.Logger

	alive func(process) bool
	step  func(done string) error // called after each change; nil in production
}

func newKeeper(dir string, log *slog.Logger) *keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &keeper{dir: cmp.Or(dir, DefaultStateDir), log: log, alive: alive}
}

// step is one change to a card.
type step struct {
	name string
	do   func() error
}

// claim does what Claim says.
func (k *keeper) claim(name string, mtu int) (*NIC, error) {
	if err := checkCapabilities(); err != nil {
		return nil, err
	}
	link, err := lookUp(name)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(k.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := k.remember(link.Attrs())
	if err != nil {
		return nil, err
	}
	k.warn(link.Attrs(), &s.Original)
	if err := s.save(k.dir); err != nil {
		return nil, err
	}
	a := link.Attrs()
	n := &NIC{name: a.Name, index: a.Index, mac: a.HardwareAddr, driver: driverOf(a.Name), keeper: k, state: s}
	n.mtu = cmp.Or(mtu, s.Original.MTU)
	if err := k.take(n, link); err != nil {
		if undo := k.undo(s, (*state).gone); undo != nil {
			err = errors.Join(err, fmt.Errorf("and could not undo all of it: %w", undo))
		}
		return nil, err
	}
	k.log.Info("took the network card from the kernel", "nic", n.name, "mac", n.mac.String(), "driver", n.driver,
		"mtu", n.mtu, "guard", n.guard, "addresses", texts(s.Original.Addresses))
	return n, nil
}

// adopt does what Adopt says.
func (k *keeper) adopt(name string, pid int) (*NIC, error) {
	link, err := findCard(name)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(k.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := loadState(k.dir, name)
	if err != nil {
		return nil, err
	}
	at, err := here()
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	if why := s.gone(a, at); why != "" {
		return nil, errors.New(why)
	}
	if s.Owner.PID != pid {
		return nil, fmt.Errorf("the card is held by process %d, not by %d", s.Owner.PID, pid)
	}
	if s.Owner, err = self(); err != nil {
		return nil, err
	}
	if err := s.save(k.dir); err != nil {
		return nil, err
	}
	n := &NIC{name: a.Name, index: a.Index, mtu: a.MTU, mac: a.HardwareAddr, driver: driverOf(a.Name), keeper: k, state: s}
	n.guard, err = guardOf(a.Index)
	return n, err
}

// take changes the card. The guard comes first: from then on the kernel is silent.
func (k *keeper) take(n *NIC, link netlink.Link) error {
	index, name := n.index, n.name
	return k.each([]step{
		{"state", func() error { return nil }},
		{"guard", func() error { n.guard = k.guard(name, index); return nil }},
		{"settings", func() error { return k.quieten(name) }},
		{"addresses", func() error { return flushAddresses(index, all) }},
		{"routes", func() error { return flushRoutes(index, all) }},
		// After the addresses: without ARP the kernel would not leave their multicast groups.
		{"arp", func() error { return setFlags(index, unix.IFF_NOARP, unix.IFF_NOARP) }},
		{"offloads", func() error { return setOffloads(name) }},
		{"mtu", func() error {
			return setMTU(link, n.mtu)
		}},
		{"up", func() error { return wrap("set the link up", setFlags(index, unix.IFF_UP, unix.IFF_UP)) }},
	})
}

func all(message) bool { return true }

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// each runs the steps up to the first error.
func (k *keeper) each(steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return err
		}
		if k.step != nil {
			if err := k.step(s.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// guard puts the drop filter in place, or says what it means that there is none.
func (k *keeper) guard(name string, index int) string {
	kind, err := setGuard(index, hasVLANs(index))
	if err != nil {
		k.log.Warn("the kernel still sees what arrives on this card, as no filter could be put there: "+
			"it may answer, reset or forward what is meant for its addresses on other cards", "nic", name, "err", err)
	}
	return kind
}

// quieten turns IPv6 and forwarding off. Where settings are read-only, as in
// many containers, the guard and the missing addresses have to do.
func (k *keeper) quieten(name string) error {
	for key, value := range map[string]string{sysctlForward4: "0", sysctlDisableIPv6: "1"} {
		err := writeSysctl(name, key, value)
		switch {
		case errors.Is(err, fs.ErrNotExist): // this kernel has no IPv6, or not on this card
		case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
			k.log.Warn("a kernel setting of the card cannot be changed here", "nic", name, "err", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// remember returns the state to keep: that of a crashed process if it left
// one, else what the kernel has on the card now.
func (k *keeper) remember(a *netlink.LinkAttrs) (*state, error) {
	owner, err := self()
	if err != nil {
		return nil, err
	}
	at, err := here()
	if err != nil {
		return nil, err
	}
	old, err := loadState(k.dir, a.Name)
	switch {
	case err == nil && k.alive(old.Owner) && old.Boot == at.Boot:
		return nil, held(old, at)
	case err == nil:
		if why := old.stale(a, at); why != "" {
			k.log.Warn("the state file of the card does not apply any more, claiming afresh", "nic", a.Name, "why", why)
			break
		}
		k.log.Info("taking over from a process that has crashed", "nic", a.Name, "pid", old.Owner.PID)
		old.Owner = owner
		return old, nil
	case errors.Is(err, errDamaged):
		k.log.Warn("claiming afresh", "nic", a.Name, "err", err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	switch why, left, err := elsewhere(a.Index, k.dir); {
	case err != nil:
		return nil, err
	case why != "":
		return nil, errors.New(why)
	case left:
		k.log.Warn("an appliance that is gone has left its guard on the card, and its state is not in this directory: what it took from the card is not known here",
			"nic", a.Name, "dir", k.dir)
	}
	original, err := look(a)
	if err != nil {
		return nil, err
	}
	return &state{Version: stateVersion, Name: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(),
		Owner: owner, place: at, Taken: uptime(), Original: original}, nil
}

// held says who has the card.
func held(s *state, at place) error {
	if s.Namespace == at.Namespace && s.Owner.PID == os.Getpid() {
		return errors.New("this process holds the card already")
	}
	if s.Namespace != at.Namespace {
		return fmt.Errorf("the state directory is in use by the running process %d for a card of the same name in another network namespace: give each its own", s.Owner.PID)
	}
	return fmt.Errorf("the card is held by the running process %d: stop it first", s.Owner.PID)
}

// staleFunc says why a state is not about a card, "" if it is.
type staleFunc func(*state, *netlink.LinkAttrs, place) string

// stale says why a state is not about this card, "" if it is.
func (s *state) stale(a *netlink.LinkAttrs, at place) string {
	if why := s.gone(a, at); why != "" {
		return why
	}
	if s.MAC != a.HardwareAddr.String() {
		return fmt.Sprintf("it is about another card: %s had the address %s and has %s now", s.Name, s.MAC, a.HardwareAddr)
	}
	return ""
}

// gone is stale for the process that holds the card: it would know another
// card by its number, and an operator may have given this one a new address.
func (s *state) gone(a *netlink.LinkAttrs, at place) string {
	switch {
	case s.Boot != at.Boot:
		return "it is of an earlier boot"
	case s.Namespace != at.Namespace:
		return "it is of another network namespace"
	case s.Index != a.Index:
		return fmt.Sprintf("it is about a card that is gone: %s had number %d and has %d now", s.Name, s.Index, a.Index)
	}
	return ""
}

// look reads what the kernel has on a card.
func look(a *netlink.LinkAttrs) (snapshot, error) {
	var errs [6]error
	s := snapshot{Flags: a.RawFlags, MTU: a.MTU}
	s.Ingress, errs[0] = hasIngress(a.Index)
	s.Features, errs[1] = featuresOf(a.Name)
	s.Sysctls, errs[2] = sysctlsOf(a.Name)
	s.Addresses, errs[3] = addressesOf(a.Index)
	s.Neighbours, errs[4] = neighboursOf(a.Index)
	s.Routes, errs[5] = routesOf(a.Index, s.Addresses)
	s.Routes = slices.DeleteFunc(s.Routes, func(r message) bool { return isLocalTable(r) && fromKernel(r) })
	return s, wrap("read what the kernel has on it", errors.Join(errs[:]...))
}

// warn says what the kernel loses with the card.
func (k *keeper) warn(a *netlink.LinkAttrs, s *snapshot) {
	if slices.ContainsFunc(s.Routes, isDefault) {
		k.log.Warn("the kernel's default route goes through this card: while it is claimed, other programs of this machine are cut off", "nic", a.Name)
	}
	if from := sshSessions(s.Addresses); len(from) > 0 {
		k.log.Warn("an SSH session goes through this card and will hang while it is claimed", "nic", a.Name, "from", strings.Join(from, " "))
	}
	for _, child := range children(a.Index) {
		if child.Type() != "vlan" {
			k.log.Warn("a link on top of this card gets no frames while it is claimed", "nic", a.Name, "link", child.Attrs().Name, "kind", child.Type())
		}
	}
}

func texts(all []message) []string {
	found := make([]string, 0, len(all))
	for _, m := range all {
		found = append(found, m.Text)
	}
	return found
}

// setFlags changes the IFF_* flags of a mask.
func setFlags(index int, flags, mask uint32) error {
	msg := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(msg[4:], uint32(index))
	binary.NativeEndian.PutUint32(msg[8:], flags)
	binary.NativeEndian.PutUint32(msg[12:], mask)
	return wrap("set link flags", send(unix.RTM_NEWLINK, 0, msg))
}
