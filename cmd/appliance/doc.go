// Command appliance takes network cards from the kernel and proxies TCP
// through its own stack, seeing every connection to its last ACK.
//
// It is the only package that knows all the others. run.go is the life of the
// process, daemon.go starts the parts and stops them in reverse order; every
// other file is one command or what commands share. `appliance help` lists
// the commands.
package main
