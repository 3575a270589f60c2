// Package timesync asks NTP servers what time it is (RFC 5905, as a client that
// asks now and then: SNTP), and puts the clock right if it may. The protocol is
// that of github.com/beevik/ntp; how datagrams reach a network, and who may set the
// clock, is told in Options. A Keeper has one goroutine while Run runs.
package timesync
