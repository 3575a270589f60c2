package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	rtHead       = unix.SizeofRtMsg
	nexthopHead  = unix.SizeofRtNexthop
	rtaNexthopID = 30  // RTA_NH_ID of linux/rtnetlink.h
	userHz       = 100 // ticks a second of rta_cacheinfo, fixed on every architecture Go runs on
)

// routesOf returns the routes of every table that die with a card: those
// through it, and those whose source address is one of its addresses.
func routesOf(index int, addresses []message) ([]message, error) {
	all, err := dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, make([]byte, rtHead))
	if err != nil {
		return nil, err
	}
	var own []message
	for _, raw := range all {
		if len(raw) < rtHead || !isIP(raw[0]) || binary.NativeEndian.Uint32(raw[8:])&unix.RTM_F_CLONED != 0 {
			continue
		}
		if routeUses(raw, index) || routeFrom(raw, addresses) {
			raw = settledRoute(raw)
			own = append(own, message{Text: routeText(raw), Raw: raw})
		}
	}
	return own, nil
}

// routeUses reports whether a route, or one of its next hops, leaves by the card.
func routeUses(raw []byte, index int) bool {
	if int(attributeU32(raw[rtHead:], unix.RTA_OIF)) == index {
		return true
	}
	for hop := range nexthops(attribute(raw[rtHead:], unix.RTA_MULTIPATH)) {
		if int(binary.NativeEndian.Uint32(hop[4:])) == index {
			return true
		}
	}
	return false
}

// nexthops walks over the struct rtnexthop of a route with several.
func nexthops(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) >= nexthopHead {
			size := int(binary.NativeEndian.Uint16(b))
			if size < nexthopHead || size > len(b) || !yield(b[:size]) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

func routeFrom(raw []byte, addresses []message) bool {
	src, ok := netip.AddrFromSlice(attribute(raw[rtHead:], unix.RTA_PREFSRC))
	return ok && slices.ContainsFunc(addresses, func(a message) bool { return addressPrefix(a.Raw).Addr() == src })
}

// fromKernel reports a route the kernel makes for each address by itself.
func fromKernel(r message) bool { return r.Raw[5] == unix.RTPROT_KERNEL }

// isLocalTable reports a route of the table the kernel keeps its own addresses in.
func isLocalTable(r message) bool { return routeTable(r.Raw) == unix.RT_TABLE_LOCAL }

func routeTable(raw []byte) uint32 {
	if t := attributeU32(raw[rtHead:], unix.RTA_TABLE); t != 0 {
		return t
	}
	return uint32(raw[4])
}

func isMultipath(r message) bool { return attribute(r.Raw[rtHead:], unix.RTA_MULTIPATH) != nil }

// isDefault reports a route to everywhere.
func isDefault(r message) bool { return r.Raw[1] == 0 && r.Raw[7] == unix.RTN_UNICAST }

// settledRoute is a route in the form the kernel takes it back: without the
// state of the moment, its remaining time as RTA_EXPIRES.
func settledRoute(raw []byte) []byte {
	const keep = unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE
	object := attribute(raw[rtHead:], rtaNexthopID) != nil
	var expires uint32
	out := rewrite(raw, rtHead, func(kind uint16, v []byte) []byte {
		switch kind {
		case unix.RTA_CACHEINFO: // clntref, lastuse, expires ...
			if len(v) >= 12 {
				expires = uint32(max(int32(binary.NativeEndian.Uint32(v[8:])), 0) / userHz)
			}
			return nil
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
			if object {
				return nil // repeats what the next hop object says; the kernel takes one or the other
			}
		case unix.RTA_MULTIPATH:
			if object {
				return nil
			}
			for hop := range nexthops(v) {
				hop[2] &= keep
			}
		}
		return v
	})
	binary.NativeEndian.PutUint32(out[8:], binary.NativeEndian.Uint32(out[8:])&keep)
	if expires > 0 {
		out = appendAttribute(out, unix.RTA_EXPIRES, binary.NativeEndian.AppendUint32(nil, expires))
	}
	return out
}

// sameRoute compares without the time that is left.
func sameRoute(a, b message) bool {
	return bytes.Equal(withExpiry(a.Raw, 0), withExpiry(b.Raw, 0))
}

// withExpiry replaces the remaining seconds of a route that has any; 0 removes them.
func withExpiry(raw []byte, left uint32) []byte {
	return rewrite(raw, rtHead, func(kind uint16, v []byte) []byte {
		switch {
		case kind != unix.RTA_EXPIRES:
			return v
		case left == 0:
			return nil
		}
		return binary.NativeEndian.AppendUint32(nil, left)
	})
}

func routeText(raw []byte) string {
	attrs := raw[rtHead:]
	var b strings.Builder
	dst, _ := netip.AddrFromSlice(attribute(attrs, unix.RTA_DST)) // none: default
	if raw[1] == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(netip.PrefixFrom(dst, int(raw[1])).String())
	}
	if via, ok := netip.AddrFromSlice(attribute(attrs, unix.RTA_GATEWAY)); ok {
		fmt.Fprintf(&b, " via %s", via)
	}
	if metric := attributeU32(attrs, unix.RTA_PRIORITY); metric != 0 {
		fmt.Fprintf(&b, " metric %d", metric)
	}
	if t := routeTable(raw); t != unix.RT_TABLE_MAIN {
		fmt.Fprintf(&b, " table %d", t)
	}
	return b.String()
}

// flushRoutes removes the routes that still leave by the card, the kernel's own
// in the local table excepted: those follow the addresses. A route with
// further next hops stays and loses this one with the addresses.
func flushRoutes(index int, which func(message) bool) error {
	all, err := routesOf(index, nil)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range all {
		if isMultipath(r) || isLocalTable(r) && fromKernel(r) || !which(r) {
			continue
		}
		if err := send(unix.RTM_DELROUTE, 0, r.Raw); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r.Text, err))
		}
	}
	return errors.Join(errs...)
}

// restoreRoutes makes the card's routes those that were remembered elapsed
// seconds ago. The addresses must be back already, and with them the routes
// the kernel makes for each.
func restoreRoutes(index int, saved, addresses []message, elapsed uint32) error {
	errs := []error{flushRoutes(index, func(r message) bool {
		return !slices.ContainsFunc(saved, func(s message) bool { return sameRoute(r, s) })
	})}
	now, err := routesOf(index, addresses)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list routes: %w", err))...)
	}
	var missing []message
	for _, r := range saved {
		if !fromKernel(r) && !slices.ContainsFunc(now, func(n message) bool { return sameRoute(r, n) }) {
			missing = append(missing, r)
		}
	}
	// A gateway must be reachable by a route that is there already: go round
	// until a round brings nothing.
	for len(missing) > 0 {
		var failed []message
		var why []error
		for _, r := range missing {
			if err := restoreRoute(r, elapsed); err != nil {
				failed, why = append(failed, r), append(why, err)
			}
		}
		if len(failed) == len(missing) {
			return errors.Join(append(errs, why...)...)
		}
		missing = failed
	}
	return errors.Join(errs...)
}

func restoreRoute(r message, elapsed uint32) error {
	flags := unix.NLM_F_CREATE | unix.NLM_F_APPEND
	if isMultipath(r) {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE // some of its next hops may be there
	}
	raw := r.Raw
	if left := attributeU32(raw[rtHead:], unix.RTA_EXPIRES); left > 0 {
		if left <= elapsed {
			return nil // would be gone by now
		}
		raw = withExpiry(raw, left-elapsed)
	}
	if err := send(unix.RTM_NEWROUTE, flags, raw); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("put back route %s: %w", r.Text, err)
	}
	return nil
}
