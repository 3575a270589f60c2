package lab

import (
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ways returns how to start the inner process, best first. A user namespace
// comes first for root too, so that both users test the same thing and a slip
// can't reach the machine's own network. Root keeps every user id it has;
// others become root alone, for which setgroups must be off
// (user_namespaces(7)). Root without user namespaces does without.
func ways() []*syscall.SysProcAttr {
	alone := attr(unix.CLONE_NEWUSER)
	alone.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	alone.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	if os.Geteuid() != 0 {
		return []*syscall.SysProcAttr{alone}
	}
	return []*syscall.SysProcAttr{same(), alone, attr(0)}
}

func attr(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: flags | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
}

// same is a user namespace where every id means what it means outside.
func same() *syscall.SysProcAttr {
	a := attr(unix.CLONE_NEWUSER)
	a.UidMappings = identity("/proc/self/uid_map")
	a.GidMappings = identity("/proc/self/gid_map")
	a.GidMappingsEnableSetgroups = true
	return a
}

// identity maps every id that the file of a namespace lists to itself.
func identity(file string) []syscall.SysProcIDMap {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil // the attempt fails, and the next way is tried
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			continue
		}
		size = min(size, math.MaxUint32, math.MaxInt)
		ids = append(ids, syscall.SysProcIDMap{ContainerID: int(inside), HostID: int(inside), Size: int(size)})
	}
	return ids
}
