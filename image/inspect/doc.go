// Package inspect tells what a disk image or a disk is and whether it is whole:
// the structure, that every boot entry leads to a kernel and an initramfs, and
// that these are for the architecture they say.
//
// It has no goroutines.
package inspect
