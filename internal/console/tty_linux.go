package console

import "golang.org/x/sys/unix"

// openFlags: keys without waiting, so that reading can end; and no signals.
const openFlags = unix.O_NONBLOCK | unix.O_NOCTTY

// local makes a serial line work without a modem's word (termios(3), CLOCAL).
func local(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Cflag |= unix.CLOCAL | unix.CREAD
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
