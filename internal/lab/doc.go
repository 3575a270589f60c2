// Package lab builds small networks inside one process: hosts, cables and
// faults, for tests, benchmarks and the demonstration.
//
// Enter re-executes the program in namespaces of its own, where it may do to
// the network what it likes, with or without root. A Host is one network
// namespace with a kernel TCP/IP stack; Wire joins two of them, WireImpaired
// does it through a line that loses, delays, repeats, reorders and damages
// frames. Capture, Raw and Tap see and make single frames.
//
// A Host has no goroutine: Do moves the calling thread. ImpairedLink owns two
// goroutines for each direction, Capture one, Server one for each connection;
// their Close stops them and waits. Everything is for Linux alone.
package lab
