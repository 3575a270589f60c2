package stack

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/lastack/lastack/config"
)

// applyPolicy sets what gVisor takes per connection. The order matters: the
// times stand before keepalive is switched on.
func applyPolicy(ep tcpip.Endpoint, p *config.Policy) error {
	userTimeout := tcpip.TCPUserTimeoutOption(max(p.UserTimeout, 0))
	linger := tcpip.TCPLingerTimeoutOption(p.FinWait2)
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
	if p.Keepalive.Idle <= 0 {
		return nil
	}
	if err := ep.SetSockOptInt(tcpip.KeepaliveCountOption, p.Keepalive.Probes); err != nil {
		return fmt.Errorf("apply policy %s: keepalive probes: %w", p.Name, toError(err))
	}
	ep.SocketOptions().SetKeepAlive(true)
	return nil
}
