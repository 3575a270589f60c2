// Package dhcp keeps an IPv4 address of one card by DHCP (RFC 2131): Client is
// the state machine, Lease what a server has given. The messages are those of
// github.com/insomniacslk/dhcp; how they reach a wire, and who uses the address,
// is told by the interfaces Conn and Holder.
//
// A Client has two goroutines while Run runs, which waits for both: its own, and
// one that reads.
package dhcp
