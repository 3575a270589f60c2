// Package kmod chooses the kernel modules of an image and the order to load
// them in. A set is a list of modules by name; Resolve adds what they need, by
// the .modinfo section that each module file carries, so that neither depmod
// nor modprobe is needed, here or on the image.
//
// An image has three files beside the modules:
//
//	/lib/modules/order    one path a line, needs before what needs them; a line
//	                      "# NAME" begins a set
//	/lib/modules/depends  PATH: PATH ..., all that must be loaded before, in order
//	/lib/modules/aliases  PATTERN PATH: the hardware a module is for, in the
//	                      patterns of /sys/devices/**/modalias
//
// It has no goroutines and no state.
package kmod
