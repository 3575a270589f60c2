package stack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/lastack/lastack/config"
)

// applyPolicy sets what gVisor takes per connection. The order matters: the
// times stand before keepalive is switched on.
//
// Linux answers one probe in 500 ms (net.ipv4.tcp_invalid_ratelimit), so that
// a policy which notices a vanished peer faster than that ends living ones.
func applyPolicy(ep tcpip.Endpoint, p *config.Policy) error {
	userTimeout := tcpip.TCPUserTimeoutOption(max(p.UserTimeout, 0))
	linger := tcpip.TCPLingerTimeoutOption(finWait2(p))
	cc := tcpip.CongestionControlOption(p.Congestion)
	options := []tcpip.SettableSocketOption{&userTimeout, &linger}
	if p.Congestion != "" && p.Congestion != defaultCongestion {
		options = append(options, &cc)
	}
	if p.Keepalive.Idle > 0 {
		idle := tcpip.KeepaliveIdleOption(p.Keepalive.Idle)
		interval := tcpip.KeepaliveIntervalOption(p.Keepalive.Interval)
		options = append(options, &idle, &interval)
	}
	for _, o := range options {
		if err := ep.SetSockOpt(o); err != nil {
			return fmt.Errorf("apply policy %s: %T: %w", p.Name, o, toError(err))
		}
	}
	if err := applyIP(ep, p); err != nil {
		return err
	}
	if p.Keepalive.Idle <= 0 {
		return nil
	}
	if err := ep.SetSockOptInt(tcpip.KeepaliveCountOption, p.Keepalive.Probes); err != nil {
		return fmt.Errorf("apply policy %s: keepalive probes: %w", p.Name, toError(err))
	}
	ep.SocketOptions().SetKeepAlive(true)
	return nil
}

// applyIP sets the fields of the IP header that a policy names (RFC 9293, 3.9.2:
// MUST-48, MUST-49). The SYN-ACK of an accepted connection had the defaults.
func applyIP(ep tcpip.Endpoint, p *config.Policy) error {
	type option struct {
		name  tcpip.SockOptInt
		value int
	}
	var all []option
	if p.DSCP > 0 {
		all = append(all, option{tcpip.IPv4TOSOption, p.DSCP << 2}, option{tcpip.IPv6TrafficClassOption, p.DSCP << 2})
	}
	if p.TTL > 0 {
		all = append(all, option{tcpip.IPv4TTLOption, p.TTL}, option{tcpip.IPv6HopLimitOption, p.TTL})
	}
	for _, o := range all {
		if err := ep.SetSockOptInt(o.name, o.value); err != nil {
			return fmt.Errorf("apply policy %s: IP option %d: %w", p.Name, o.name, toError(err))
		}
	}
	return nil
}

// finWait2 is how long gVisor keeps a connection in FIN-WAIT-2 after its Close.
// No limit is the longest it takes, because a negative one would close it at
// once: it is the delay of a timer there. Nobody's Close, no timer: whoever
// holds the connection decides.
func finWait2(p *config.Policy) time.Duration {
	if p.FinWait2 < 0 {
		return tcp.MaxTCPLingerTimeout
	}
	return min(p.FinWait2, tcp.MaxTCPLingerTimeout)
}
