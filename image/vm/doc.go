// Package vm boots images in QEMU: under UEFI firmware, with two network cards,
// a watchdog, and the serial port as the console.
//
// The first card is in 10.0.2.0/24, where 10.0.2.2 is the host and the gateway
// and gives addresses by DHCP; chosen ports of 127.0.0.1 are forwarded to it. The second is in
// 10.0.3.0/24, without a way out; 10.0.3.2 is the host's 127.0.0.1, where a backend
// may listen.
//
// A Machine has one goroutine that reads its console and one that waits for QEMU to
// end; Close ends QEMU and waits for both.
package vm
