package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lastack/lastack/image/slot"
)

// A boot loader that cannot load a kernel gives back to the firmware, which goes
// on with its next boot option: a shell, or the network, and there the box sits. So the firmware
// is given several options that are all our loader. It then starts the loader again until
// the tries of the bad slot are used up, and the other one boots.

const (
	efiGlobal    = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiLoader    = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd-boot's variables
	efiAttribute = 7                                      // non-volatile, for boot services and at run time
	firstOption  = 0x1000
	optionCount  = slot.Tries + 1
)

// nvram is the firmware's variables, as efivarfs shows them.
type nvram struct{ dir string }

func (n nvram) read(name, vendor string) ([]byte, error) {
	value, err := os.ReadFile(filepath.Join(n.dir, name+"-"+vendor))
	if err != nil {
		return nil, err
	}
	if len(value) < 4 {
		return nil, fmt.Errorf("firmware variable %s is too short", name)
	}
	return value[4:], nil
}

// write changes a variable if its value is another: the memory wears out, and some firmware does not bear many writes.
func (n nvram) write(name string, value []byte) (changed bool, err error) {
	old, err := n.read(name, efiGlobal)
	if err == nil && bytes.Equal(old, value) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// One write(2): efivarfs takes attributes and value together.
	whole := append(binary.LittleEndian.AppendUint32(nil, efiAttribute), value...)
	f, err := os.OpenFile(filepath.Join(n.dir, name+"-"+efiGlobal), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return false, fmt.Errorf("write firmware variable %s: %w", name, err)
	}
	_, err = f.Write(whole)
	return true, wrap("write firmware variable "+name, errors.Join(err, f.Close()))
}

// loaderPart is the unique GUID of the ESP that systemd-boot was started from, "" if it doesn't say.
func (n nvram) loaderPart() string {
	value, err := n.read("LoaderDevicePartUUID", efiLoader)
	if err != nil {
		return ""
	}
	var s strings.Builder
	for i := 0; i+1 < len(value) && value[i] != 0; i += 2 {
		s.WriteByte(value[i])
	}
	return s.String()
}

// chain puts our options first. It tells whether something had to be written.
func (n nvram) chain(number int, part gptEntry, loader string) (changed bool, err error) {
	var order []byte
	for i := range optionCount {
		id := uint16(firstOption + i)
		order = binary.LittleEndian.AppendUint16(order, id)
		wrote, err := n.write(fmt.Sprintf("Boot%04X", id), loadOption("Lastack", number, part, loader))
		if err != nil {
			return changed, err
		}
		changed = changed || wrote
	}
	old, err := n.read("BootOrder", efiGlobal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return changed, err
	}
	for i := 0; i+1 < len(old); i += 2 {
		id := binary.LittleEndian.Uint16(old[i:])
		if id < firstOption || id >= firstOption+optionCount {
			order = binary.LittleEndian.AppendUint16(order, id)
		}
	}
	wrote, err := n.write("BootOrder", order)
	return changed || wrote, err
}

// loadOption is an EFI_LOAD_OPTION: UEFI 2.10, 3.1.3 and 10.3.
func loadOption(name string, number int, part gptEntry, loader string) []byte {
	le := binary.LittleEndian
	// 10.3.5.1, hard drive: type 4, subtype 1, 42 bytes.
	path := []byte{4, 1, 42, 0}
	path = le.AppendUint32(path, uint32(number))
	path = le.AppendUint64(path, part.First)
	path = le.AppendUint64(path, part.Last-part.First+1)
	path = append(path, part.Unique[:]...)
	path = append(path, 2, 2) // a GPT, and a GUID for signature
	// 10.3.5.4, file path: type 4, subtype 4.
	file := utf16(strings.ReplaceAll(loader, "/", `\`))
	path = append(path, 4, 4)
	path = le.AppendUint16(path, uint16(4+len(file)))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0) // 10.3.1, the end

	out := le.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	out = le.AppendUint16(out, uint16(len(path)))
	return slices.Concat(out, utf16(name), path)
}

// chainBoot sets the options up, where there is such firmware.
func (b *Box) chainBoot(esp partition) {
	n := nvram{b.path("sys/firmware/efi/efivars")}
	if _, err := n.read("BootOrder", efiGlobal); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(n.dir); err != nil {
			b.problem("nvram", "the firmware's boot options are out of reach: a kernel that cannot be loaded needs hands to get past")
			return
		}
	}
	part, err := readGPT(b.path("dev/"+esp.disk), esp.Number)
	if err != nil {
		b.warn("nvram", err)
		return
	}
	loader := map[string]string{"amd64": "/EFI/BOOT/BOOTX64.EFI", "arm64": "/EFI/BOOT/BOOTAA64.EFI"}[b.release.Arch]
	changed, err := n.chain(esp.Number, part, loader)
	b.warn("nvram", err)
	if changed {
		b.log.Info("the firmware starts our loader again if a kernel cannot be loaded", "options", optionCount)
	}
}
