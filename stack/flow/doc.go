// Package flow watches every TCP connection of the stack on the wire. Its
// Table stands between the cards and gVisor as their frame filter:
//
//	card -> Card.Inbound  -> refused by the guard: dropped or answered with an ACK
//	                         in TIME-WAIT:         answered from the Flow
//	                         else:                 noted, and on to gVisor
//	card <- Card.Outbound <- noted                 <- gVisor
//
// A Flow is one connection in a fixed-size record without pointers: where its
// sequence numbers are, the way through the states of RFC 9293, 3.3.2 with
// times, who ended it first. From it come the answers to what gVisor does not
// check (the guard: PAWS, acceptable ACK numbers, ICMP errors about segments
// that were never sent), the bounds of the closing states, and TIME-WAIT
// itself: gVisor's endpoint goes at once, the Flow stays and answers.
//
// After a crash the Table knows nothing, but its peers do: Recall takes what a
// journal has kept, and Sweep ends those connections at their peers.
//
// A Table owns one goroutine, which Close stops and waits for. Nothing here
// blocks on the path of a frame; each shard of the table has its own lock.
package flow
