// Package predict tells what a policy means in time: when a lost segment is
// sent again, when a peer is given up, and by which rule. It computes what the
// stack does, without it: tests in package stack hold the two together on a
// virtual clock. A leaf over config; no state.
package predict
