// Package demo shows the main job in half a minute: a client, an appliance and
// two web servers, each on a kernel of its own, and every connection seen to
// its end.
//
// Run does it all. It builds the network with package lab, without root and
// without other programs, runs the real appliance in it as a child process and
// prints each step as a person would do it. What it says at the end is counted
// from what the clients read and from the frames on their wire.
//
// Its goroutines: one waits for the appliance, one for each download and each
// client, those of the lab's servers and captures, and with Keep one for each
// namespace that the printed commands enter. All have ended when Run returns,
// also when its context is canceled.
package demo
