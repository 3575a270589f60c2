package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Tap makes a tap device in h and sets it up: the file reads the frames that
// the kernel sends and writes those it receives, one for each call. Closing
// the file removes the device.
func Tap(h *Host, name string) (*os.File, error) {
	return tap(h, name, 0)
}

// TapVnet is Tap with a virtio_net_hdr of 10 bytes before each frame.
func TapVnet(h *Host, name string) (*os.File, error) {
	return tap(h, name, unix.IFF_VNET_HDR)
}

func tap(h *Host, name string, flags uint16) (*os.File, error) {
	var f *os.File
	err := h.Do(func() (err error) {
		f, err = openTap(name, flags)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make tap %s on %s: %w", name, h.name, err)
	}
	if err := h.SetUp(name, true); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (which every user may on most systems; as root, run `modprobe tun && chmod 666 /dev/net/tun`): %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to the device: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
