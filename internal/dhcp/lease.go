package dhcp

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is an address that a server has given for a time, and what it told
// besides.
type Lease struct {
	Prefix   netip.Prefix  `json:"prefix"`
	Server   netip.Addr    `json:"server"`
	Routes   []Route       `json:"routes,omitempty"`
	DNS      []netip.Addr  `json:"dns,omitempty"`
	NTP      []netip.Addr  `json:"ntp,omitempty"`
	Hostname string        `json:"hostname,omitempty"`
	Domain   string        `json:"domain,omitempty"`
	Acquired time.Time     `json:"acquired"`    // when it was asked for (RFC 2131, 4.4.1)
	Lasts    time.Duration `json:"lasts_ns"`    // from Acquired; Forever is allowed
	Renew    time.Duration `json:"renew_ns"`    // T1, from Acquired
	Rebind   time.Duration `json:"rebind_ns"`   // T2, from Acquired
	Ended    bool          `json:"-"`           // it ran out, or was taken away
	Silent   bool          `json:"unconfirmed"` // no server answers: it is used for as long as it lasts
}

// Forever is how long a lease lasts that never ends.
const Forever = time.Duration(math.MaxInt64)

// Route is one that the server told. A default route has To 0.0.0.0/0; without
// Via it is on the link.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via,omitzero"`
}

// Expires is when the lease ends, the zero time if never.
func (l *Lease) Expires() time.Time {
	if l.Lasts == Forever {
		return time.Time{}
	}
	return l.Acquired.Add(l.Lasts)
}

// Valid reports whether the lease has begun and has not ended.
func (l *Lease) Valid(now time.Time) bool {
	return !now.Before(l.Acquired) && (l.Lasts == Forever || now.Before(l.Expires()))
}

// Told is the lease as it is written for another process: its begin is counted
// back from now, because the wall clock may have been set since (a box without a
// clock of its own learns the time by the network, after its address).
func (l *Lease) Told(now time.Time) *Lease {
	told := *l
	told.Acquired = now.Add(-now.Sub(l.Acquired)).Round(0)
	return &told
}

// Heard is a lease that was read, tied to this process's clock: what is set later
// changes nothing about it.
func (l *Lease) Heard(now time.Time) *Lease {
	heard := *l
	heard.Acquired = now.Add(-now.Round(0).Sub(l.Acquired))
	return &heard
}

// left is the time until a moment of the lease.
func (l *Lease) left(now time.Time, moment time.Duration) time.Duration {
	if moment == Forever {
		return Forever
	}
	return l.Acquired.Add(moment).Sub(now)
}

// Bounds of what is believed of a server.
const (
	shortestLease = 2 * time.Second // renewed at half of it, so no more than one message a second
	mostRoutes    = 32
	mostServers   = 8
	longestName   = 253 // RFC 1035, 3.1
)

// leaseOf reads an acknowledgement. What it leaves out stays as it was before,
// since some servers repeat only what is asked for.
func leaseOf(m *dhcpv4.DHCPv4, asked time.Time, before *Lease) (*Lease, error) {
	l := &Lease{Acquired: asked}
	addr, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || !usable(addr) {
		return nil, fmt.Errorf("the server gives %v, which no host can have", m.YourIPAddr)
	}
	l.Prefix = netip.PrefixFrom(addr, bitsOf(m, addr, before))
	l.Server, _ = netip.AddrFromSlice(m.ServerIdentifier().To4())
	if !l.Server.IsValid() && before != nil {
		l.Server = before.Server
	}
	if err := l.setTimes(m); err != nil {
		return nil, err
	}
	l.DNS, l.NTP = addrsOf(m.DNS()), addrsOf(m.NTPServers())
	l.Hostname, l.Domain = plain(m.HostName()), plain(m.DomainName())
	l.Routes = routesOf(m)
	if before != nil {
		l.inherit(m, before)
	}
	return l, nil
}

// usable reports whether a host can have the address.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

// bitsOf is the prefix length: the server's word, or the address's class.
func bitsOf(m *dhcpv4.DHCPv4, addr netip.Addr, before *Lease) int {
	if mask := m.SubnetMask(); mask != nil {
		if ones, size := mask.Size(); size == 32 && ones > 0 {
			return ones
		}
	}
	if before != nil && before.Prefix.Addr() == addr {
		return before.Prefix.Bits()
	}
	ones, _ := net.IP(addr.AsSlice()).DefaultMask().Size()
	return ones
}

func (l *Lease) setTimes(m *dhcpv4.DHCPv4) error {
	l.Lasts = m.IPAddressLeaseTime(0)
	if l.Lasts >= math.MaxUint32*time.Second {
		l.Lasts, l.Renew, l.Rebind = Forever, Forever, Forever
		return nil
	}
	if l.Lasts < shortestLease {
		return fmt.Errorf("the server gives %s for %s, and less than %s is of no use", l.Prefix.Addr(), l.Lasts, shortestLease)
	}
	// RFC 2131, 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2 defaults to
	// (0.875 * duration_of_lease)."
	l.Renew = m.IPAddressRenewalTime(l.Lasts / 2)
	l.Rebind = m.IPAddressRebindingTime(l.Lasts / 8 * 7)
	if l.Renew < time.Second || l.Rebind < l.Renew || l.Lasts < l.Rebind {
		l.Renew, l.Rebind = l.Lasts/2, l.Lasts/8*7
	}
	return nil
}

// routesOf are the classless static routes, or the router: "If the DHCP server
// returns both a Classless Static Routes option and a Router option, the DHCP
// client MUST ignore the Router option" (RFC 3442).
func routesOf(m *dhcpv4.DHCPv4) (all []Route) {
	for _, r := range m.ClasslessStaticRoute() {
		to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		via, ok2 := netip.AddrFromSlice(r.Router.To4())
		ones, _ := r.Dest.Mask.Size()
		if !ok || !ok2 || len(all) == mostRoutes {
			continue
		}
		one := Route{To: netip.PrefixFrom(to, ones).Masked()}
		if !via.IsUnspecified() { // "0.0.0.0" is on the link
			if !usable(via) {
				continue
			}
			one.Via = via
		}
		all = append(all, one)
	}
	if m.ClasslessStaticRoute() != nil {
		return all
	}
	for _, via := range addrsOf(m.Router()) { // in order of preference
		return []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via}}
	}
	return nil
}

// inherit keeps what the acknowledgement says nothing of.
func (l *Lease) inherit(m *dhcpv4.DHCPv4, before *Lease) {
	for _, o := range []struct {
		code dhcpv4.OptionCode
		keep func()
	}{
		{dhcpv4.OptionDomainNameServer, func() { l.DNS = before.DNS }},
		{dhcpv4.OptionNTPServers, func() { l.NTP = before.NTP }},
		{dhcpv4.OptionHostName, func() { l.Hostname = before.Hostname }},
		{dhcpv4.OptionDomainName, func() { l.Domain = before.Domain }},
	} {
		if !m.Options.Has(o.code) {
			o.keep()
		}
	}
	if !m.Options.Has(dhcpv4.OptionRouter) && !m.Options.Has(dhcpv4.OptionClasslessStaticRoute) {
		l.Routes = before.Routes
	}
}

// addrsOf are those of a list that a host can have, a few.
func addrsOf(ips []net.IP) (all []netip.Addr) {
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && usable(a) && len(all) < mostServers {
			all = append(all, a)
		}
	}
	return all
}

// plain is a name from the network if a terminal can show it, else nothing.
func plain(name string) string {
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	if name = strings.TrimRight(name, "\x00"); len(name) > longestName || strings.ContainsFunc(name, odd) {
		return ""
	}
	return name
}

// ErrInUse says that another host has the address: it is declined.
var ErrInUse = errors.New("another host has it")
