package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// marker is the environment variable that Enter leaves for the process it
// starts: the network namespace it came from.
const marker = "LASTACK_LAB"

// Inside reports whether this process already runs in namespaces made by
// Enter, or was started by one that does.
func Inside() bool {
	outer := os.Getenv(marker)
	here, err := os.Readlink("/proc/thread-self/ns/net")
	return outer != "" && err == nil && here != outer
}

// Enter runs this program once more, with the same arguments, as root of new
// user, network and mount namespaces, and exits with its status. It returns
// only in that second process, with nil, or when namespaces can't be had, with
// an error that says what to do about it.
func Enter() error {
	if Inside() {
		return settle()
	}
	outer, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("find this process's network namespace: %w", err)
	}
	liftFileLimit()
	// Pdeathsig follows the thread that forks, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passed...)
	defer signal.Stop(signals)
	cmd, err := startInside(outer)
	if err != nil {
		return fmt.Errorf("start again in new namespaces: %w (%s)", err, advice())
	}
	os.Exit(attend(cmd, signals))
	return nil // not reached
}

// passed are the signals that reach the inner process through the outer one.
var passed = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
}

// startInside starts the program in the first kind of namespaces that works.
func startInside(outer string) (*exec.Cmd, error) {
	var errs []error
	for _, attr := range ways() {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = os.Args
		cmd.Env = append(os.Environ(), marker+"="+outer)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = attr
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// attend passes signals on until cmd ends, and returns its exit status.
func attend(cmd *exec.Cmd, signals <-chan os.Signal) int {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends before attend does
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				// It may have ended meanwhile: then Wait says so.
				_ = cmd.Process.Signal(s)
			}
		case <-done:
			return exitStatus(cmd.ProcessState)
		}
	}
}

// fromTerminal reports whether s was typed at our terminal, which has then
// sent it to the inner process as well: that must not see it twice.
func fromTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT {
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// settle makes the new namespaces fit to work in: mounts stay here, the
// loopback interface is up. Go's net package looks for ::1 once, at first use.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w (%s)", err, advice())
	}
	quietDefaults()
	if err := upLoopback(); err != nil {
		return fmt.Errorf("%w (%s)", err, advice())
	}
	return nil
}

// liftFileLimit raises the limit of open files, which a user namespace no
// longer may: ten thousand connections with both ends here need more than
// many systems give. It does what it can.
func liftFileLimit() {
	var l unix.Rlimit
	const want = 1 << 18
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil || l.Max >= want {
		return
	}
	// Without the privilege it stays as it is.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: want})
}

// advice names the setting that forbids user namespaces, if one is seen to.
func advice() string {
	for _, f := range forbidders {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(f.key, ".", "/"))
		if err == nil && strings.TrimSpace(string(b)) == f.forbids {
			return fmt.Sprintf("this system forbids it to ordinary users: as root, run `sysctl -w %s=%s`, or run this as root", f.key, f.allows)
		}
	}
	return "a container may forbid it: run this as root, or with the capability SYS_ADMIN and no seccomp filter on unshare"
}

// forbidders are the kernel settings that deny user namespaces.
var forbidders = []struct{ key, forbids, allows string }{
	{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"}, // Ubuntu 23.10 and newer
	{"kernel.unprivileged_userns_clone", "0", "1"},             // Debian 10 and older, Arch hardened
	{"user.max_user_namespaces", "0", "10000"},                 // RHEL 7, hardened systems
	{"user.max_net_namespaces", "0", "10000"},
}
