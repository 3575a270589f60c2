// Package image says what a disk of ours looks like: the partitions, the paths
// on the EFI system partition, the boot entries and the files that the
// initramfs carries. The builder, the update, and the process 1 that boots from
// it all take these from here.
//
//	GPT | ESP (FAT32)                              | DATA (blank; ext4 after the first boot)
//	      /EFI/BOOT/BOOTX64.EFI  systemd-boot
//	      /loader/loader.conf
//	      /loader/entries/a.conf, b+3.conf, reset.conf
//	      /A/vmlinuz /A/initrd
//	      /B/vmlinuz /B/initrd
//
// There is no root file system: a slot is a kernel and an initramfs, and the
// initramfs is the whole system.
//
// It has no goroutines and no state.
package image
