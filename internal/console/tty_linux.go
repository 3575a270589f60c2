package console

import "golang.org/x/sys/unix"

// openFlags: keys without waiting, so that reading can end; and no signals.
const openFlags = unix.O_NONBLOCK | unix.O_NOCTTY
