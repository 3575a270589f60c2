// Package conformance shows that the stack keeps the rules of TCP's RFCs: its
// tests put segments made by hand on a real wire and look at what comes back.
// It has no code but tests, because the peer must not share a line with what is
// judged.
//
// docs/rfc9293.md is the matrix of the statements. Those that do not hold and
// have a test here stand in the table knownGaps: it is skipped for as long as it
// fails, and fails once it passes.
package conformance
