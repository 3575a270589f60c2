// Package provision takes a box's first settings from a medium that somebody has
// put them on: the EFI partition, a USB stick. Take is called once at a boot, before
// the appliance runs. It has no goroutine.
package provision
