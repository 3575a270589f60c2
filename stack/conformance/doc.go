// Package conformance shows that the stack keeps the rules of TCP's RFCs: its
// tests put segments made by hand on a real wire and look at what comes back.
// It has no code but tests, because the peer must not share a line with what is
// judged.
//
// docs/rfc9293.md is the matrix of the statements and the tests that show them;
// a test here keeps it true. Statements that do not hold stand in the table
// knownGaps, each with a test that fails once it holds after all.
package conformance
