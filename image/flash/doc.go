// Package flash writes an image to a disk: it finds the disks of this machine,
// refuses those that are in use, writes, and reads everything back from the
// medium.
//
// It has no goroutines.
package flash
