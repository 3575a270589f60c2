// Package boot is process 1 of a box: the appliance's own binary, started by
// the kernel from the initramfs. It makes the machine usable, runs the appliance as a
// process that may do little, and is the only one that may write boot entries,
// kernels and the hardware clock. There is no shell and no other program but
// e2fsck.
//
// Main does, in this order: devices; hardware watchdog, as early as its driver
// is there; modules; partitions; data; clock; boot options of the firmware; the
// control socket; the appliance. Then serve watches, until somebody asks for a
// reboot or something is wrong, and shutdown ends it all through the firmware.
//
// Goroutines, all begun by Box.start, which makes a panic in any of them a
// reboot: the one of serve, which alone feeds the watchdog; one that reaps; one
// that reads the appliance's notices; one for each of its runs that reads its
// log; one that waits for signals; one that answers on the control socket and one
// for each request; one at a time that asks the appliance how it is. One writes
// to the console.
package boot
