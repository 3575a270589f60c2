// Package servicestest is a network in memory for testing services: Net
// implements services.Network with connections that behave as TCP does where
// it matters to a service. Buffers have limits, FIN travels behind the data,
// unread data turns a close into a reset, an error is told once and reads as
// end of file after, a handshake takes time, hosts refuse or are silent, and a
// delay holds for everything. Peer is the other end's blocking view.
//
// Without a delay it runs no goroutine and nothing needs stopping. With one,
// what is under way is carried by timers: use it inside testing/synctest.
package servicestest
