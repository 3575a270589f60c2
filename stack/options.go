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
	sack := tcpip.TCPSACKEnabled(true)     // RFC 2018
	recovery := tcpip.TCPRACKLossDetection // RFC 8985
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cookies := tcpip.TCPAlwaysUseSynCookies(false) // RFC 4987: only when the queue of half-open connections is full
	cc := tcpip.CongestionControlOption(defaultCongestion)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(p.TimeWait.Duration)
	// A port in TIME-WAIT for over a second may dial again: without it, 28,000
	// connections to one backend in a minute would be the end.
	reuse := tcpip.TCPTimeWaitReuseOption(tcpip.TCPTimeWaitReuseGlobal)
	minRTO := tcpip.TCPMinRTOOption(p.Retransmit.MinRTO)
	maxRTO := tcpip.TCPMaxRTOOption(p.Retransmit.MaxRTO)
	retries := tcpip.TCPMaxRetriesOption(p.Retransmit.MaxRetries)
	options := []tcpip.SettableTransportProtocolOption{
		&sack, &recovery, &moderate, &cookies, &cc, &timeWait, &reuse, &retries, &sendBuffer, &receiveBuffer,
	}
	// gVisor checks each against the other: widen before narrowing.
	if p.Retransmit.MinRTO > 0 && p.Retransmit.MaxRTO > 0 {
		options = append(options, &maxRTO, &minRTO)
	}
	for _, o := range options {
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
