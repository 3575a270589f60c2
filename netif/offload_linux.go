package netif

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ethFlagLRO      = 1 << 15 // ETH_FLAG_LRO of linux/ethtool.h
	maxFeatureWords = 8       // of 32 features each; 6.18 has two
)

// ethtoolIoctl runs one SIOCETHTOOL command; arg begins with its number.
func ethtoolIoctl(card string, arg unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // union of struct ifreq
	}{data: arg}
	copy(req.name[:unix.IFNAMSIZ-1], card)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// featuresOf returns the offloads that are asked for (ETHTOOL_GFEATURES), as
// bits whose meaning holds until the next boot. Nil if the driver has no such
// notion.
func featuresOf(card string) ([]uint32, error) {
	req := struct {
		cmd, size uint32
		words     [maxFeatureWords]struct{ available, requested, active, neverChanged uint32 }
	}{cmd: unix.ETHTOOL_GFEATURES, size: maxFeatureWords}
	switch err := ethtoolIoctl(card, unsafe.Pointer(&req)); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read offloads: %w", err)
	}
	var found []uint32
	for _, w := range req.words[:min(req.size, maxFeatureWords)] {
		found = append(found, w.requested)
	}
	return found, nil
}

// restoreFeatures asks again for the offloads that were asked for then.
func restoreFeatures(card string, saved []uint32) error {
	now, err := featuresOf(card)
	if err != nil || len(now) != len(saved) {
		return err
	}
	req := struct {
		cmd, size uint32
		words     [maxFeatureWords]struct{ valid, requested uint32 }
	}{cmd: unix.ETHTOOL_SFEATURES, size: uint32(len(saved))}
	differs := false
	for i, w := range saved {
		req.words[i].valid, req.words[i].requested = w^now[i], w
		differs = differs || w != now[i]
	}
	if !differs {
		return nil
	}
	if err := ethtoolIoctl(card, unsafe.Pointer(&req)); err != nil {
		return fmt.Errorf("put back offloads: %w", err)
	}
	return nil
}

// setOffloads turns LRO off, whose merged frames packet sockets do not get, and
// GRO on, which brings super-frames that can be cut again exactly.
func setOffloads(card string) error {
	flags := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
	err := ethtoolIoctl(card, unsafe.Pointer(&flags))
	if err == nil && flags.data&ethFlagLRO != 0 {
		flags = ethtoolValue{cmd: unix.ETHTOOL_SFLAGS, data: flags.data &^ ethFlagLRO}
		if err := ethtoolIoctl(card, unsafe.Pointer(&flags)); err != nil {
			return fmt.Errorf("turn off large receive offload: %w", err)
		}
	}
	gro := ethtoolValue{cmd: unix.ETHTOOL_GGRO}
	err = ethtoolIoctl(card, unsafe.Pointer(&gro))
	if err == nil && gro.data == 0 {
		gro = ethtoolValue{cmd: unix.ETHTOOL_SGRO, data: 1}
		if err := ethtoolIoctl(card, unsafe.Pointer(&gro)); err != nil {
			return fmt.Errorf("turn on generic receive offload: %w", err)
		}
	}
	return nil // a driver that cannot be asked has neither
}

// driverOf is the driver's name, "" if it does not say.
func driverOf(card string) string {
	info := unix.EthtoolDrvinfo{Cmd: unix.ETHTOOL_GDRVINFO}
	if err := ethtoolIoctl(card, unsafe.Pointer(&info)); err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}
