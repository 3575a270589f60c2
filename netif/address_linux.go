package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ifaHead      = unix.SizeofIfAddrmsg
	ndHead       = unix.SizeofNdMsg
	forever      = 0xffffffff // lifetime of an address that does not age
	ifaCacheSize = 16         // struct ifa_cacheinfo

	// dadPatience is how long restored IPv6 addresses may stay tentative: the
	// kernel's delay before duplicate detection, which is random below 1 s, and
	// one probe of 1 s. Mostly detection is off then and a worker's turn does.
	dadPatience = 4 * time.Second
	dadPoll     = 5 * time.Millisecond
)

// addressesOf returns the kernel's IPv4 and IPv6 addresses of a card in the
// kernel's order.
func addressesOf(index int) ([]message, error) {
	all, err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, ifaHead))
	if err != nil {
		return nil, err
	}
	var own []message
	for _, raw := range all {
		if len(raw) >= ifaHead && isIP(raw[0]) && int(binary.NativeEndian.Uint32(raw[4:])) == index {
			own = append(own, message{Text: addressPrefix(raw).String(), Raw: raw})
		}
	}
	return own, nil
}

func isIP(family byte) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

// addressPrefix is the address itself: with a peer, IFA_LOCAL is ours and
// IFA_ADDRESS the other end.
func addressPrefix(raw []byte) netip.Prefix {
	v := attribute(raw[ifaHead:], unix.IFA_LOCAL)
	if v == nil {
		v = attribute(raw[ifaHead:], unix.IFA_ADDRESS)
	}
	a, _ := netip.AddrFromSlice(v) // the zero Addr prints as invalid, which it then is
	return netip.PrefixFrom(a, int(raw[1]))
}

// addressFlags are the IFA_F_* flags, in their long form where there is one.
func addressFlags(raw []byte) uint32 {
	if v := attributeU32(raw[ifaHead:], unix.IFA_FLAGS); v != 0 {
		return v
	}
	return uint32(raw[2])
}

// isTemporary reports a privacy address (RFC 8981): the kernel makes those
// itself and takes none from outside. IPv4 uses the same bit for "secondary".
func isTemporary(raw []byte) bool {
	return raw[0] == unix.AF_INET6 && addressFlags(raw)&unix.IFA_F_TEMPORARY != 0
}

// ages reports whether an address has a lifetime.
func ages(raw []byte) bool {
	c := attribute(raw[ifaHead:], unix.IFA_CACHEINFO)
	return len(c) >= 8 && (binary.NativeEndian.Uint32(c) != forever || binary.NativeEndian.Uint32(c[4:]) != forever)
}

// settledAddress is the part of an address that does not change by itself, for comparison.
func settledAddress(raw []byte) []byte {
	const passing = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	out := rewrite(raw, ifaHead, func(kind uint16, v []byte) []byte {
		switch kind {
		case unix.IFA_CACHEINFO:
			return nil
		case unix.IFA_FLAGS:
			binary.NativeEndian.PutUint32(v, binary.NativeEndian.Uint32(v)&^passing)
		}
		return v
	})
	out[2] &^= passing & 0xff
	return out
}

func sameAddress(a, b message) bool {
	return !ages(a.Raw) && !ages(b.Raw) && bytes.Equal(settledAddress(a.Raw), settledAddress(b.Raw))
}

// aged is an address as it would be now had it stayed in place for elapsed
// seconds; nil if it would be gone.
func aged(raw []byte, elapsed uint32) []byte {
	gone := false
	out := rewrite(raw, ifaHead, func(kind uint16, v []byte) []byte {
		if kind != unix.IFA_CACHEINFO || len(v) < ifaCacheSize {
			return v
		}
		for _, at := range []int{0, 4} { // preferred, then valid
			left := binary.NativeEndian.Uint32(v[at:])
			if left == forever {
				continue
			}
			gone = at == 4 && left <= elapsed
			binary.NativeEndian.PutUint32(v[at:], left-min(left, elapsed))
		}
		return v
	})
	if gone {
		return nil
	}
	return out
}

// flushAddresses removes every address. Removing a primary address takes its
// secondaries along, so what is gone already is no error.
func flushAddresses(index int, which func(message) bool) error {
	all, err := addressesOf(index)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var errs []error
	for _, a := range all {
		if !which(a) {
			continue
		}
		if err := send(unix.RTM_DELADDR, 0, a.Raw); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove address %s: %w", a.Text, err))
		}
	}
	return errors.Join(errs...)
}

// restoreAddresses makes the card's addresses those that were remembered
// elapsed seconds ago.
func restoreAddresses(index int, saved []message, elapsed uint32) error {
	now, err := addressesOf(index)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	// Which IPv4 address is primary follows from the order they came in: all or nothing.
	saved4, saved6 := byFamily(saved)
	now4, now6 := byFamily(now)
	var errs []error
	if !slices.EqualFunc(saved4, now4, sameAddress) {
		errs = append(errs, flushAddresses(index, func(a message) bool { return a.Raw[0] == unix.AF_INET }))
		for _, a := range saved4 {
			errs = append(errs, restoreAddress(a, elapsed))
		}
	}
	errs = append(errs, flushAddresses(index, func(a message) bool {
		return a.Raw[0] == unix.AF_INET6 && !isTemporary(a.Raw) && !slices.ContainsFunc(saved6, sameText(a))
	}))
	// The kernel puts a new IPv6 address before the others of its scope.
	for _, a := range slices.Backward(saved6) {
		if !isTemporary(a.Raw) && !slices.ContainsFunc(now6, func(b message) bool { return sameAddress(a, b) }) {
			errs = append(errs, restoreAddress(a, elapsed))
		}
	}
	return errors.Join(errs...)
}

func sameText(a message) func(message) bool {
	return func(b message) bool { return a.Text == b.Text }
}

func byFamily(all []message) (v4, v6 []message) {
	for _, a := range all {
		if a.Raw[0] == unix.AF_INET {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

func restoreAddress(a message, elapsed uint32) error {
	raw := aged(a.Raw, elapsed)
	if raw == nil {
		return nil // its lifetime ended while the card was claimed
	}
	if err := send(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, raw); err != nil {
		return fmt.Errorf("put back address %s: %w", a.Text, err)
	}
	return nil
}

// isTentative reports an IPv6 address that has not passed duplicate detection.
func isTentative(a message) bool {
	return a.Raw[0] == unix.AF_INET6 && addressFlags(a.Raw)&unix.IFA_F_TENTATIVE != 0
}

// settleAddresses waits until no IPv6 address is tentative that was not so
// before: a route cannot name such an address as its source.
func settleAddresses(index int, saved []message) error {
	for deadline := time.Now().Add(dadPatience); time.Now().Before(deadline); time.Sleep(dadPoll) {
		all, err := addressesOf(index)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		if !slices.ContainsFunc(all, func(a message) bool {
			i := slices.IndexFunc(saved, sameText(a))
			return isTentative(a) && i >= 0 && !isTentative(saved[i])
		}) {
			return nil
		}
	}
	return nil // a driver that takes longer: the kernel goes on by itself
}

// neighboursOf returns the permanent entries of the ARP and NDP tables: those
// somebody wrote, and that the kernel forgets when ARP is turned off.
func neighboursOf(index int) ([]message, error) {
	all, err := dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, make([]byte, ndHead))
	if err != nil {
		return nil, err
	}
	var own []message
	for _, raw := range all {
		if len(raw) < ndHead || !isIP(raw[0]) || int(binary.NativeEndian.Uint32(raw[4:])) != index ||
			binary.NativeEndian.Uint16(raw[8:])&unix.NUD_PERMANENT == 0 {
			continue
		}
		dst, _ := netip.AddrFromSlice(attribute(raw[ndHead:], unix.NDA_DST)) // only for the reader
		raw = rewrite(raw, ndHead, func(kind uint16, v []byte) []byte {
			if kind == unix.NDA_CACHEINFO || kind == unix.NDA_PROBES {
				return nil // ages and counts
			}
			return v
		})
		own = append(own, message{Text: dst.String(), Raw: raw})
	}
	return own, nil
}

func restoreNeighbours(saved []message) error {
	var errs []error
	for _, n := range saved {
		if err := send(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, n.Raw); err != nil {
			errs = append(errs, fmt.Errorf("put back neighbour %s: %w", n.Text, err))
		}
	}
	return errors.Join(errs...)
}
