package stack

import (
	"fmt"
	"math"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/lastack/lastack/config"
)

const defaultCongestion = "cubic"

// Buffer sizes in bytes. The largest covers 4 MiB in flight: 1 Gbit/s over
// 32 ms. What an idle connection holds does not depend on them.
var (
	sendBuffer    = tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: 256 << 10, Max: 4 << 20}
	receiveBuffer = tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 1 << 20, Max: 4 << 20}
)

// setTCPOptions sets what gVisor keeps once for the whole stack. RTO,
// retries and TIME-WAIT are taken from the policy "default": gVisor reads them
// from the stack when a handshake completes (RTO, retries) or TIME-WAIT begins.
func (s *Stack) setTCPOptions(p config.Policy) error {
	sack := tcpip.TCPSACKEnabled(true) // RFC 2018
	recovery := lossDetection(p.Retransmit.LossDetection)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cookies := tcpip.TCPAlwaysUseSynCookies(false) // RFC 4987: only when the queue of half-open connections is full
	cc := tcpip.CongestionControlOption(defaultCongestion)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(max(p.TimeWait.Duration, 0)) // off: closed at once
	if s.flows != nil {
		timeWait = 0 // the flow stands in for it, gVisor's endpoint goes at once
	}
	// A port in TIME-WAIT for over a second may dial again: without it, 28,000
	// connections to one backend in a minute would be the end.
	reuse := tcpip.TCPTimeWaitReuseOption(tcpip.TCPTimeWaitReuseGlobal)
	options := []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &moderate, &cookies, &cc, &timeWait, &reuse, &sendBuffer, &receiveBuffer,
	}
	for _, o := range append(options, retransmitOptions(p.Retransmit)...) {
		if err := s.s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set TCP option %T: %w", o, toError(err))
		}
	}
	// Ephemeral ports as wide as gVisor allows; ours alone, no kernel shares them.
	if err := s.s.SetPortRange(16384, math.MaxUint16); err != nil {
		return fmt.Errorf("set ephemeral port range: %w", toError(err))
	}
	return nil
}

// lossDetection is RACK's (RFC 8985) unless SACK's alone (RFC 6675) is asked for.
// gVisor's RACK counts what it has marked as lost as still on its way, and
// after a lost window repeats two segments for each timeout: docs/configuration.md
// has what that costs, and cmd/appliance/flap_test.go a case.
func lossDetection(name string) tcpip.TCPRecovery {
	if name == "sack" {
		return 0
	}
	return tcpip.TCPRACKLossDetection
}

// retransmitOptions leaves out what is zero: gVisor has defaults, and no
// retries would end a connection at the first lost segment.
func retransmitOptions(r config.Retransmit) []tcpip.SettableTransportProtocolOption {
	var options []tcpip.SettableTransportProtocolOption
	if r.MaxRetries > 0 {
		retries := tcpip.TCPMaxRetriesOption(r.MaxRetries)
		options = append(options, &retries)
	}
	if r.MinRTO > 0 && r.MaxRTO > 0 {
		// gVisor checks each against the other: the lower bound makes room first.
		none := tcpip.TCPMinRTOOption(0)
		maxRTO := tcpip.TCPMaxRTOOption(r.MaxRTO)
		minRTO := tcpip.TCPMinRTOOption(r.MinRTO)
		options = append(options, &none, &maxRTO, &minRTO)
	}
	return options
}
