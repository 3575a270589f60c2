// Package slot keeps the two bootable slots of a box on its EFI system
// partition, as systemd-boot reads them: a slot is a kernel, an initramfs and a
// boot entry, whose file name counts the tries that are left
// (https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT).
//
//	            Install (other slot)
//	empty, bad ----------------------> b+3.conf: new
//	                                      | the loader, at each boot
//	                                      v
//	            Bless                  b+2-1.conf: on trial
//	b.conf: good <------------------------|
//	                                      | no tries are left
//	                                      v
//	                                   b+0-3.conf: bad, the loader takes it last
//
// Every method leaves the partition so that a power cut at any moment finds a
// box that boots: the running slot is never touched, and an entry appears only
// after its files were read back from the disk and compared.
package slot
