// Package stack assembles gVisor's TCP/IP stack from the configuration over
// the ports of network cards, and gives out its connections without gVisor's
// types: Stack listens and dials, a Conn never blocks.
//
// A Gate, given to the cards as their frame filter, refuses new connections
// while the handshakes under way finish.
//
// What a config.Policy says is applied per connection, except retransmit and
// time_wait: gVisor keeps those once for a stack, and they are the policy
// default's. A connection whose peer no longer answers ends with a
// TimeoutError, which says what was left without an answer.
//
// Goroutines: gVisor's TCP processors, and one of ours that follows IPv6
// router advertisements; Close stops both and waits.
package stack
