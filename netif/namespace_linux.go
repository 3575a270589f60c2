package netif

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// openNamespace opens the network namespace of the calling thread.
func openNamespace() (*os.File, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return ns, nil
}

// settleIn moves the calling goroutine into a namespace for the rest of its
// life, and closes the file. A program that lives in one namespace pays
// nothing and needs no right (setns(2) wants CAP_SYS_ADMIN); in another the
// goroutine keeps its thread, which ends with it.
func settleIn(ns *os.File) error {
	defer func() { _ = ns.Close() }() // nothing was written
	runtime.LockOSThread()
	same, err := isHere(ns)
	if same {
		runtime.UnlockOSThread()
		return nil
	}
	if err == nil {
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace of the card: %w", err)
	}
	return nil
}

// isHere reports whether the calling thread is in a namespace.
func isHere(ns *os.File) (bool, error) {
	var own, other unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return false, err
	}
	if err := unix.Fstat(int(ns.Fd()), &other); err != nil {
		return false, err
	}
	return own.Dev == other.Dev && own.Ino == other.Ino, nil
}
