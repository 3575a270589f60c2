// Package bundle is a firmware update in one file: a tar archive of a manifest,
// its signature, a kernel and an initramfs, in this order.
//
//	manifest.json          what it is, and size and SHA-256 of what follows
//	manifest.json.minisig  minisign's signature of the manifest
//	vmlinuz
//	initrd
//
// The order lets a box refuse a bundle before it has read the files, and write
// them while they arrive: Read answers with a Bundle only if the manifest is signed by one of
// the keys, and each file it then yields ends with an error unless it is
// byte by byte the one that was signed. `tar x` and `minisign -V` check one by hand.
package bundle
