package lab

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one network namespace with its loopback interface up. It lives as
// long as it is open or a socket made in it is. Methods may be called from
// several goroutines at once.
type Host struct {
	name    string
	ns      *os.File
	nl      *netlink.Handle
	client  *http.Client
	dialing chan struct{} // bounds the threads that dials take at one moment

	closing sync.Once
}

// NewHost makes a namespace. The name is for messages alone.
func NewHost(name string) (*Host, error) {
	h := &Host{name: name, dialing: make(chan struct{}, 8)}
	if err := aside(h.unshare); err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, err)
	}
	h.client = h.newClient()
	return h, nil
}

// Here returns the namespace that the calling thread is in as a Host, for a
// program that was started inside one.
func Here(name string) (*Host, error) {
	h := &Host{name: name, dialing: make(chan struct{}, 8)}
	if err := h.keep(); err != nil {
		return nil, fmt.Errorf("make host %s of this namespace: %w", name, err)
	}
	h.client = h.newClient()
	return h, nil
}

// unshare gives the calling thread a new namespace, for h.
func (h *Host) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare the network namespace: %w", err)
	}
	quietDefaults()
	if err := upLoopback(); err != nil {
		return err
	}
	return h.keep()
}

// keep holds the namespace of the calling thread in h.
func (h *Host) keep() error {
	ns, err := here()
	if err != nil {
		return err
	}
	h.ns = ns
	h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(fmt.Errorf("open netlink: %w", err), ns.Close())
	}
	return nil
}

// Name returns what the host was called by who made it.
func (h *Host) Name() string { return h.name }

// Do runs f on the calling goroutine with its thread moved into the host:
// sockets that f makes and processes that it starts belong to the host.
// Goroutines that f starts do not. Do may be nested.
func (h *Host) Do(f func() error) error {
	return aside(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter host %s: %w", h.name, err)
		}
		return f()
	})
}

// aside runs f on a thread that may change its network namespace, and brings
// the thread back.
func aside(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := here()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	// Deferred, so that the thread comes back also when f panics or ends its
	// goroutine, as a failing test does.
	defer func() {
		defer home.Close()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			// The thread stays locked: the runtime ends it with its goroutine.
			err = errors.Join(err, fmt.Errorf("leave the namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// here opens the network namespace of the calling thread.
func here() (*os.File, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "netns"), nil
}

// Start starts cmd inside the host.
func (h *Host) Start(cmd *exec.Cmd) error {
	return h.Do(cmd.Start)
}

// Close gives the namespace up. Connections and listeners in it stay usable
// until they are closed themselves; the kernel removes it after the last one.
func (h *Host) Close() error {
	var err error
	h.closing.Do(func() {
		h.client.CloseIdleConnections()
		h.nl.Close()
		err = h.ns.Close()
	})
	return err
}

// upLoopback sets lo of the thread's namespace up, without the net package.
func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name the loopback interface: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	return nil
}
