// Package disk writes a disk image and checks one: the GPT, the EFI system
// partition (FAT32), and a blank data partition. Write uses no root, no loop
// device and no mkfs; Check reads every structure of the result by code of its
// own, so that neither believes the other.
//
// It has no goroutines.
package disk
