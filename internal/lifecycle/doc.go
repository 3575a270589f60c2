// Package lifecycle draws the states of a TCP connection with the timers that
// a policy puts on them, as a picture and as text. Both stand in
// docs/lifecycle.md; a test holds them to this table.
package lifecycle
