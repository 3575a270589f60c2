// Package sshd serves the appliance's commands over SSH: public keys only, no
// shell, no program, no forwarding, no file transfer. Server accepts on listeners
// that it is given; each connection has one goroutine of the Server, and those of
// golang.org/x/crypto/ssh; a session has one more for its requests and one for its
// command. Close ends them and waits.
package sshd
