package vm

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lastack/lastack/image"
)

// Addresses of the two networks, as QEMU's user networking gives them.
const (
	GuestWAN = "10.0.2.15" // by DHCP, on the first card
	HostWAN  = "10.0.2.2"
	GuestLAN = "10.0.3.15" // also by DHCP, on the second card
	HostLAN  = "10.0.3.2"  // the host's 127.0.0.1
)

// Config is a machine.
type Config struct {
	Arch     image.Arch
	Disk     string // raw image
	Snapshot bool   // what is written to the disk is forgotten
	Vars     string // the firmware's variables: a file of this machine's own
	Memory   int    // MiB; 0 = DefaultMemory
	CPUs     int    // 0 = 1
	KVM      bool
	Forwards []Forward
	Alone    bool     // no way out of the first network but the forwards
	NoReboot bool     // end at the first reset
	Card     string   // of the first network; "" = virtio-net-pci
	Extra    []string // more arguments for QEMU
}

// DefaultMemory is what a machine has, in MiB.
const DefaultMemory = 256

// Forward sends connections to a port of the host's 127.0.0.1 to the guest's first card.
type Forward struct {
	Host  uint16
	Guest uint16
}

// Firmware is where a distribution keeps UEFI for virtual machines.
type Firmware struct {
	Code, Vars string
}

func firmwares(a image.Arch) []Firmware {
	if a == image.ARM64 {
		return []Firmware{
			{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},                                // Debian, Ubuntu
			{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"}, // Fedora
		}
	}
	return []Firmware{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	}
}

// Need finds what a machine of an architecture needs on this host, or says what
// to install.
func Need(a image.Arch) (qemu string, fw Firmware, err error) {
	name, packages := "qemu-system-x86_64", "qemu-system-x86 ovmf"
	if a == image.ARM64 {
		name, packages = "qemu-system-aarch64", "qemu-system-arm qemu-efi-aarch64"
	}
	if qemu, err = exec.LookPath(name); err != nil {
		return "", fw, fmt.Errorf("%s is missing: apt-get install %s", name, packages)
	}
	for _, fw := range firmwares(a) {
		if exist(fw.Code) && exist(fw.Vars) {
			return qemu, fw, nil
		}
	}
	return "", fw, fmt.Errorf("UEFI firmware for %s is missing: apt-get install %s", a, packages)
}

func exist(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// command is the program and its arguments. The firmware's variables are made
// if they are not there.
func (c Config) command() (string, []string, error) {
	qemu, fw, err := Need(c.Arch)
	if err != nil {
		return "", nil, err
	}
	if err := freshVars(c.Vars, fw.Vars); err != nil {
		return "", nil, err
	}
	return qemu, c.args(fw), nil
}

// freshVars copies the template: boot entries are written into it and last, so
// that no two machines may share one.
func freshVars(name, template string) error {
	if name == "" {
		return errors.New("internal error: a machine without a file for its firmware's variables")
	}
	if exist(name) {
		return nil
	}
	data, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o600)
}

func (c Config) args(fw Firmware) []string {
	disk := "if=none,id=disk,format=raw,file=" + escape(c.Disk)
	if c.Snapshot {
		disk += ",snapshot=on"
	}
	card := cmp.Or(c.Card, "virtio-net-pci")
	args := append(c.machine(),
		"-m", strconv.Itoa(cmp.Or(c.Memory, DefaultMemory)), "-smp", strconv.Itoa(cmp.Or(c.CPUs, 1)),
		"-nographic", "-nodefaults", "-serial", "mon:stdio",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+escape(fw.Code),
		"-drive", "if=pflash,format=raw,unit=1,file="+escape(c.Vars),
		"-drive", disk, "-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-netdev", c.wan(), "-device", card+",netdev=wan,romfile=",
		"-netdev", "user,id=lan,net=10.0.3.0/24", "-device", "virtio-net-pci,netdev=lan,romfile=",
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset",
	)
	if c.NoReboot {
		args = append(args, "-no-reboot")
	}
	return append(args, c.Extra...)
}

func (c Config) machine() []string {
	machine, cpu := "q35", "max"
	if c.Arch == image.ARM64 {
		machine, cpu = "virt", "cortex-a72"
	}
	accel := "tcg"
	if c.KVM {
		accel, cpu = "kvm", "host"
	}
	return []string{"-machine", machine, "-accel", accel, "-cpu", cpu}
}

func (c Config) wan() string {
	var b strings.Builder
	b.WriteString("user,id=wan,net=10.0.2.0/24")
	if c.Alone {
		b.WriteString(",restrict=on")
	}
	for _, f := range c.Forwards {
		fmt.Fprintf(&b, ",hostfwd=tcp:%s-:%d", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), f.Host), f.Guest)
	}
	return b.String()
}

// escape doubles commas, which separate QEMU's options.
func escape(name string) string {
	return strings.ReplaceAll(filepath.Clean(name), ",", ",,")
}
