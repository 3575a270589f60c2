// Package carrytest proves that a proxy carries TCP connections as it should:
// kernel peers on both sides of it do what seeded schedules say, and each
// compares what it sees with what the other one did.
//
// A Schedule is one connection: what its client and its backend write and when,
// when they stop reading, and how they end. New makes it from a seed and a
// number, always the same one. A Stage plays schedules, many at once, on hosts of
// the laboratory; the proxy between them is the caller's. Each connection has a
// Result: what both sides saw, and what of it must not be.
//
// The bytes of a stream tell their place in it, so that loss, repetition and
// exchange of bytes are all seen where they begin.
//
// Play owns a goroutine for each listener and two for each socket, and waits for
// them.
package carrytest
