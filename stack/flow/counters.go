package flow

import "sync/atomic"

// Counters count what a Table did.
type Counters struct {
	Created      atomic.Uint64 // flows
	TimeWaits    atomic.Uint64 // flows that entered TIME-WAIT
	Expired      atomic.Uint64 // left it in time
	Evicted      atomic.Uint64 // left it early: time_wait.max was reached
	Reused       atomic.Uint64 // left it early: a new connection took the ports over
	TimeWaitACK  atomic.Uint64 // segments answered in TIME-WAIT
	TimeWaitRST  atomic.Uint64 // RSTs ignored in TIME-WAIT (RFC 1337)
	Limited      atomic.Uint64 // connections ended by the bound of a state
	PAWS         atomic.Uint64 // segments dropped for an old timestamp (RFC 7323, 5)
	NoTimestamp  atomic.Uint64 // dropped for lack of one
	BadACK       atomic.Uint64 // dropped for an ACK of what was never sent, or long ago (RFC 5961, 5)
	NoACK        atomic.Uint64 // dropped for lack of the ACK flag
	LateSYN      atomic.Uint64 // SYNs dropped in a connection (RFC 5961, 4), but for TIME-WAIT
	BehindFIN    atomic.Uint64 // dropped because they come behind the peer's FIN
	ICMP         atomic.Uint64 // ICMP errors dropped: about nothing that was sent, or with an MTU below the floor
	BadSource    atomic.Uint64 // SYNs dropped that claim to come from a group, from us or from nowhere
	Group        atomic.Uint64 // segments dropped that were sent to all on the link
	Stalls       atomic.Uint64 // times that the stack had no timer running for what was unacknowledged
	Challenges   atomic.Uint64 // ACKs sent in answer to what was dropped
	CarriedFull  atomic.Uint64 // clients for whom there was no room among the carried connections
	Probes       atomic.Uint64 // keepalive segments sent because somebody asked, or for a sweep
	Spliced      atomic.Uint64 // connections that the table carries on from two of the stack's
	Directed     atomic.Uint64 // connections that it carries from their first SYN on
	CarriedEnds  atomic.Uint64 // carried connections that have ended
	Untranslated atomic.Uint64 // segments dropped because they could not be passed on
	HeldOver     atomic.Uint64 // segments dropped because too much was held back for their connection, or for all
}

// Map names the counters as in listings.
func (c *Counters) Map() map[string]uint64 {
	return map[string]uint64{
		"created": c.Created.Load(), "time_waits": c.TimeWaits.Load(), "expired": c.Expired.Load(),
		"evicted": c.Evicted.Load(), "reused": c.Reused.Load(), "time_wait_acks": c.TimeWaitACK.Load(),
		"time_wait_rsts_ignored": c.TimeWaitRST.Load(), "limited": c.Limited.Load(), "paws": c.PAWS.Load(),
		"no_timestamp": c.NoTimestamp.Load(), "bad_ack": c.BadACK.Load(), "no_ack": c.NoACK.Load(),
		"late_syn": c.LateSYN.Load(), "behind_fin": c.BehindFIN.Load(),
		"bad_source": c.BadSource.Load(), "group": c.Group.Load(), "icmp_refused": c.ICMP.Load(), "challenge_acks": c.Challenges.Load(), "probes": c.Probes.Load(), "stalls": c.Stalls.Load(),
		"spliced": c.Spliced.Load(), "directed": c.Directed.Load(), "carried_ends": c.CarriedEnds.Load(), "untranslated": c.Untranslated.Load(),
		"held_over": c.HeldOver.Load(), "carried_full": c.CarriedFull.Load(),
	}
}
