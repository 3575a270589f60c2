// Package connfilter selects connections in the words of ss(8):
//
//	state established dst 10.0.0.0/8
//	( service web or service api ) and not dport = :443
//
// Parse makes a Filter of words, Match asks it about a Conn. A connection has
// up to two sides, each with a state and two ends; a word holds if it holds
// for either side. The package is a leaf: no goroutine, no state.
package connfilter
