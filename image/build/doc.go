// Package build puts an image together: kernel, modules and boot loader from
// Debian's packages, the appliance's binary, and the boot entries. The same
// input gives the same bytes, on any machine, without root.
//
// Build does all the work; it has no goroutines but those that compress, for which it waits.
package build
