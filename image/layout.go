package image

import (
	"fmt"
	"strings"
)

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

// Paths in the initramfs.
const (
	InitPath    = "/init"                    // the appliance binary
	VersionPath = "/etc/lastack/version"     // JSON of a Version
	KeysDir     = "/etc/lastack/update-keys" // NAME.pub, minisign public keys
	ConfigPath  = "/etc/lastack/default.yaml"
	ModulesDir  = "/lib/modules"
)

// Words of the kernel command line.
const (
	SlotArg  = "lastack.slot"
	ResetArg = "lastack.reset"
)

// Tries is how many boots a new slot has to prove itself.
const Tries = 3

// Version says what a slot is.
type Version struct {
	Version string `json:"version"`
	Build   uint64 `json:"build"` // rises with every release: the highest good one boots
	Arch    Arch   `json:"arch"`
	Kernel  string `json:"kernel"` // as uname -r
}

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

// Slot is one of the two bootable versions of a disk.
type Slot string

// The two slots.
const (
	SlotA Slot = "A"
	SlotB Slot = "B"
)

// ParseSlot takes the value of lastack.slot.
func ParseSlot(s string) (Slot, error) {
	if s != string(SlotA) && s != string(SlotB) {
		return "", fmt.Errorf("slot %q is none of A and B", s)
	}
	return Slot(s), nil
}

// Other is the slot beside this one.
func (s Slot) Other() Slot {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Kernel is the path of the slot's kernel on the EFI system partition.
func (s Slot) Kernel() string { return "/" + string(s) + "/vmlinuz" }

// Initrd is the path of the slot's initramfs on the EFI system partition.
func (s Slot) Initrd() string { return "/" + string(s) + "/initrd" }

// ID is the slot's entry without counter and suffix.
func (s Slot) ID() string { return strings.ToLower(string(s)) }

// Entry is the path of the slot's boot entry. With tries it carries a counter
// that systemd-boot counts down; without it is good (systemd-boot(7), "boot
// counting").
func (s Slot) Entry(tries int) string {
	if tries > 0 {
		return fmt.Sprintf("%s/%s+%d.conf", EntriesDir, s.ID(), tries)
	}
	return fmt.Sprintf("%s/%s.conf", EntriesDir, s.ID())
}

// CommandLine is what the kernel of a slot is started with. panic=5 makes a
// kernel that can't go on try again, oops=panic one that is in doubt.
func (s Slot) CommandLine(a Arch) string {
	return a.Consoles() + " panic=5 oops=panic quiet " + SlotArg + "=" + string(s)
}

// EntryText is the content of the slot's boot entry.
func (s Slot) EntryText(v Version) string {
	return entryText(fmt.Sprintf("Lastack %s (slot %s)", v.Version, s), "lastack", s, v, "")
}

// ResetText is the content of the boot entry that forgets all settings. Its
// kernel is that of the slot, which should be a good one.
func (s Slot) ResetText(v Version) string {
	return entryText("Factory reset: forget all settings", "reset", s, v, " "+ResetArg+"=1")
}

func entryText(title, sortKey string, s Slot, v Version, args string) string {
	return strings.Join([]string{
		"title " + title,
		"sort-key " + sortKey,
		fmt.Sprintf("version %d", v.Build),
		"linux " + s.Kernel(),
		"initrd " + s.Initrd(),
		"options " + s.CommandLine(v.Arch) + args,
		"",
	}, "\n")
}

// LoaderText is the content of loader.conf: no menu unless a key is held down,
// no editing of command lines, and never the reset entry by itself. Of the
// slots' entries the loader takes the highest version that has tries left.
func LoaderText() string {
	return "timeout 0\neditor no\nconsole-mode keep\ndefault [ab]*\n"
}
