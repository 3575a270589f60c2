// Package main measures the appliance against HAProxy and against kernel
// routing, one after the other in the same run, and prints the ratios.
//
// A rig is three network namespaces in a row with one peer in the middle:
//
//	client c0 10.1.0.2 ---- wan0 10.1.0.1 peer lan0 10.2.0.1 ---- s0 10.2.0.2 server
//
// The load comes from processes of this same program: "bench load" in the
// client's namespace, "bench serve" in the server's, the same for all peers.
// Each is one thread around epoll, because on a machine with few cores what the
// load costs is taken from the peer.
//
// The process of the user owns all others and ends them by pid, also upon
// SIGINT; if it is killed itself, the kernel ends them. Its only goroutines
// wait for those processes. The method is in docs/performance.md.
package main
