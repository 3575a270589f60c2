package netif

import "sync/atomic"

// Counters is what happened to the frames of one NIC since it was claimed.
// Every frame that does not reach the stack or the wire is in exactly one of
// the drop counters.
type Counters struct {
	RxFrames       uint64 `json:"rx_frames"` // as the socket gives them: a super-frame counts once
	RxBytes        uint64 `json:"rx_bytes"`
	RxSuperFrames  uint64 `json:"rx_super_frames"` // with several segments in one
	RxKernelDrops  uint64 `json:"rx_kernel_drops"` // socket buffer full (PACKET_STATISTICS)
	RxTruncated    uint64 `json:"rx_truncated"`    // larger than 64 KiB
	RxRunt         uint64 `json:"rx_runt"`         // shorter than an Ethernet header
	RxOtherHost    uint64 `json:"rx_other_host"`   // for another MAC address
	RxOwnSource    uint64 `json:"rx_own_source"`   // our own MAC address as the source
	RxVLAN         uint64 `json:"rx_vlan"`         // with a VLAN tag nobody configured
	RxUnknownType  uint64 `json:"rx_unknown_type"` // neither IPv4, IPv6 nor ARP
	RxMalformed    uint64 `json:"rx_malformed"`    // no whole IP packet, or wrong header checksum
	RxBadChecksum  uint64 `json:"rx_bad_checksum"` // wrong TCP or UDP checksum
	RxUnsupported  uint64 `json:"rx_unsupported"`  // a super-frame that is not TCP
	RxPieces       uint64 `json:"rx_pieces"`       // IP fragments of TCP segments that had to wait for others
	RxBadPieces    uint64 `json:"rx_bad_pieces"`   // IP fragments of TCP segments that fit none, or waited in vain
	RxFiltered     uint64 `json:"rx_filtered"`     // dropped by the filter
	RxCarried      uint64 `json:"rx_carried"`      // taken by the filter
	RxDetached     uint64 `json:"rx_detached"`     // no stack attached
	RxErrors       uint64 `json:"rx_errors"`       // failed reads, link down included
	TxFrames       uint64 `json:"tx_frames"`
	TxBytes        uint64 `json:"tx_bytes"`
	TxSuperFrames  uint64 `json:"tx_super_frames"`
	TxFiltered     uint64 `json:"tx_filtered"`
	TxCarried      uint64 `json:"tx_carried"`
	TxDropNoBuffer uint64 `json:"tx_drop_no_buffer"` // queue of the card full for too long
	TxDropLinkDown uint64 `json:"tx_drop_link_down"`
	TxDropTooBig   uint64 `json:"tx_drop_too_big"` // larger than the MTU and not TCP
	TxDropError    uint64 `json:"tx_drop_error"`
	LinkChanges    uint64 `json:"link_changes"` // up, down, MTU, replaced
}

// counters are the live form of Counters: one struct per NIC, shared by its
// queues. The hot fields are added to once a batch.
type counters struct {
	rxFrames, rxBytes, rxSuper, rxKernelDrops              atomic.Uint64
	rxTruncated, rxRunt, rxOtherHost, rxOwnSource, rxVLAN  atomic.Uint64
	rxUnknownType, rxMalformed, rxBadChecksum, rxUnsupport atomic.Uint64
	rxFiltered, rxCarried, rxDetached, rxErrors            atomic.Uint64
	rxPieces, rxBadPieces                                  atomic.Uint64
	txFrames, txBytes, txSuper, txFiltered, txCarried      atomic.Uint64
	txNoBuffer, txLinkDown, txTooBig, txError, linkChanges atomic.Uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		RxFrames: c.rxFrames.Load(), RxBytes: c.rxBytes.Load(), RxSuperFrames: c.rxSuper.Load(),
		RxKernelDrops: c.rxKernelDrops.Load(), RxTruncated: c.rxTruncated.Load(), RxRunt: c.rxRunt.Load(),
		RxOtherHost: c.rxOtherHost.Load(), RxOwnSource: c.rxOwnSource.Load(), RxVLAN: c.rxVLAN.Load(),
		RxUnknownType: c.rxUnknownType.Load(), RxMalformed: c.rxMalformed.Load(),
		RxBadChecksum: c.rxBadChecksum.Load(), RxUnsupported: c.rxUnsupport.Load(),
		RxFiltered: c.rxFiltered.Load(), RxCarried: c.rxCarried.Load(), RxDetached: c.rxDetached.Load(),
		RxErrors: c.rxErrors.Load(), RxPieces: c.rxPieces.Load(), RxBadPieces: c.rxBadPieces.Load(),
		TxFrames: c.txFrames.Load(), TxBytes: c.txBytes.Load(), TxSuperFrames: c.txSuper.Load(),
		TxFiltered: c.txFiltered.Load(), TxCarried: c.txCarried.Load(),
		TxDropNoBuffer: c.txNoBuffer.Load(), TxDropLinkDown: c.txLinkDown.Load(),
		TxDropTooBig: c.txTooBig.Load(), TxDropError: c.txError.Load(), LinkChanges: c.linkChanges.Load(),
	}
}
