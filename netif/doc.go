// Package netif takes network cards from the kernel and drives them.
//
// A NIC is claimed (its kernel configuration remembered and removed) and
// released (all of it put back). An Endpoint moves its frames: AF_PACKET
// sockets with PACKET_VNET_HDR, one receive goroutine per queue, frames
// handled to the end in batches:
//
//	card -> recvmmsg -> checks -> Filter.Inbound -> Port -> the stack
//	card <- sendmmsg <- Filter.Outbound <- Port <- the stack
//
// A Port is what the stack attaches to: one for untagged frames, one for each
// VLAN. An Endpoint owns its receive goroutines and one that watches the link;
// Close stops them and waits. It stays in the network namespace in which it was
// opened, also when its card is removed and made anew.
package netif
