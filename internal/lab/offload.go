package lab

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offload turns checksum and segmentation offload of an interface on or off.
// With it off, each frame that leaves is a complete one of at most MTU size,
// also when a packet socket hands a larger one down: the kernel segments it.
func (h *Host) Offload(ifname string, on bool) error {
	return h.Do(func() error {
		if err := setOffloads(ifname, on); err != nil {
			return fmt.Errorf("set the offloads of %s on %s: %w", ifname, h.name, err)
		}
		return nil
	})
}

// offloads are the commands of ethtool(8) -K rx, tx, sg, tso, gso and gro, in
// an order that the kernel accepts: scatter-gather needs checksums.
var offloads = []uint32{
	unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SSG, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO,
}

func setOffloads(ifname string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	for _, command := range offloads {
		if on && command == unix.ETHTOOL_SGRO {
			continue // off by default on a veth
		}
		err := ethtoolSet(fd, ifname, command, on)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("ethtool command %#x: %w", command, err)
		}
	}
	return nil
}

// ethtoolSet is SIOCETHTOOL with a struct ethtool_value of linux/ethtool.h.
func ethtoolSet(fd int, ifname string, command uint32, on bool) error {
	value := struct{ command, data uint32 }{command: command}
	if on {
		value.data = 1
	}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:unix.IFNAMSIZ-1], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}
