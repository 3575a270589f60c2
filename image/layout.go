package image

import "fmt"

// The names by which a running system finds its partitions
// (PARTNAME in /sys/class/block/*/uevent).
const (
	ESPName  = "ESP"
	DataName = "DATA"
)

// The GUIDs are fixed, so that the same content gives the same bytes.
const (
	DiskGUID = "7A9D4B1E-6C5F-4E0B-9C6D-1A57AC000001"
	ESPGUID  = "7A9D4B1E-6C5F-4E0B-9C6D-1A57AC000002"
	DataGUID = "7A9D4B1E-6C5F-4E0B-9C6D-1A57AC000003"
)

// Paths on the EFI system partition.
const (
	LoaderConf = "/loader/loader.conf"
	EntriesDir = "/loader/entries"
	ResetEntry = EntriesDir + "/reset.conf"
)

// ResetArg =1 on the kernel's command line asks process 1 to forget all settings.
const ResetArg = "lastack.reset"

// What a user may leave on the EFI system partition for the first boot.
const (
	ProvisionConfig = "/lastack.yaml"
	ProvisionKeys   = "/authorized_keys"
)

// Paths in the initramfs, beside those of image/bundle.
const (
	InitPath   = "/init" // the appliance's binary
	FsckPath   = "/sbin/e2fsck"
	ConfigPath = "/etc/lastack/default.yaml"
	ModulesDir = "/lib/modules"
)

// Arch is a processor architecture in Go's and Debian's spelling.
type Arch string

// The architectures that images exist for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Arches are all of them.
func Arches() []Arch { return []Arch{AMD64, ARM64} }

// ParseArch takes the names that Go, Debian and uname use.
func ParseArch(s string) (Arch, error) {
	switch s {
	case "amd64", "x86_64", "x86-64":
		return AMD64, nil
	case "arm64", "aarch64":
		return ARM64, nil
	}
	return "", fmt.Errorf("there are no images for %q, only for amd64 and arm64", s)
}

// BootFile is where firmware looks for a boot loader without being told to
// (UEFI 2.10, 3.5.1.1).
func (a Arch) BootFile() string {
	if a == ARM64 {
		return "/EFI/BOOT/BOOTAA64.EFI"
	}
	return "/EFI/BOOT/BOOTX64.EFI"
}

// Consoles are the kernel arguments for a screen and the serial port; the last
// one is /dev/console.
func (a Arch) Consoles() string {
	if a == ARM64 {
		return "console=tty0 console=ttyAMA0,115200"
	}
	return "console=tty0 console=ttyS0,115200"
}

// CommandLine is what the kernel is started with, but for the slot. panic=5
// makes a kernel that can't go on try again, oops=panic one that is in doubt.
func (a Arch) CommandLine() string { return a.Consoles() + " panic=5 oops=panic quiet" }

// LoaderText is the content of loader.conf: no menu unless a key is held down,
// no editing of command lines, and never the reset entry by itself. Of the
// slots' entries the loader takes the highest version that has tries left.
func LoaderText() string {
	return "timeout 0\neditor no\nconsole-mode keep\ndefault [ab]*\n"
}
