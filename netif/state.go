package netif

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/wholefile"
)

// DefaultStateDir is where the state of claimed cards is kept. It does not
// outlive a boot, as the state does not.
const DefaultStateDir = "/run/lastack/nic"

const stateVersion = 1

// process is one process, told from a later one with the same number by the
// time it started.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, proc_pid_stat(5) field 22
}

// place is the boot and the network namespace that a state holds for.
type place struct {
	Boot      string `json:"boot"`
	Namespace uint64 `json:"namespace"` // inode of /proc/self/ns/net
}

// state is what is remembered about a claimed card, from before the first
// change until the last is undone. It is a file, so that a crash forgets nothing.
type state struct {
	Version int     `json:"version"`
	Name    string  `json:"name"`
	Index   int     `json:"index"`
	MAC     string  `json:"mac"`
	Owner   process `json:"owner"`
	place
	Taken    uint32   `json:"taken"` // seconds since boot: lifetimes go on meanwhile
	Original snapshot `json:"original"`
}

// snapshot is what the kernel had on a card.
type snapshot struct {
	Flags      uint32            `json:"flags"`
	MTU        int               `json:"mtu"`
	Ingress    bool              `json:"ingress"` // it had a clsact or ingress qdisc
	Features   []uint32          `json:"features"`
	Sysctls    map[string]string `json:"sysctls"`
	Addresses  []message         `json:"addresses"`
	Neighbours []message         `json:"neighbours"`
	Routes     []message         `json:"routes"`
}

// errDamaged marks a state file that cannot be understood.
var errDamaged = errors.New("state file is damaged")

// statePath is the file of a card. The kernel allows no slash in a name, and
// not the names . and ..
func statePath(dir, name string) string { return filepath.Join(dir, name+".json") }

// loadState reads a card's file, fs.ErrNotExist if it has none.
func loadState(dir, name string) (*state, error) {
	b, err := os.ReadFile(statePath(dir, name))
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, statePath(dir, name), err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("state file %s is of version %d and this program knows version %d: release the card with the program that claimed it",
			statePath(dir, name), s.Version, stateVersion)
	}
	if err := s.check(name); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, statePath(dir, name), err)
	}
	return s, nil
}

// check refuses what the code that walks the messages could not bear.
func (s *state) check(name string) error {
	if s.Name != name {
		return fmt.Errorf("it is about %q", s.Name)
	}
	for _, list := range []struct {
		head int
		all  []message
	}{{ifaHead, s.Original.Addresses}, {ndHead, s.Original.Neighbours}, {rtHead, s.Original.Routes}} {
		for _, m := range list.all {
			if len(m.Raw) < list.head {
				return fmt.Errorf("message %q is too short", m.Text)
			}
		}
	}
	return nil
}

// save writes the file so that a crash leaves the old one or the new one whole.
func (s *state) save(dir string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	if err := wholefile.Write(statePath(dir, s.Name), b, 0o600); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	return nil
}

// removeState forgets a card.
func removeState(dir, name string) error {
	if err := os.Remove(statePath(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state file: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// lockDir makes claims and releases wait for each other. A lock on the
// directory leaves nothing behind, and ends with the process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil // closing unlocks; nothing was written
}

// here is the current boot and the network namespace of the calling thread.
func here() (place, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return place{}, fmt.Errorf("tell this boot from others: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return place{}, fmt.Errorf("tell this network namespace from others: %w", err)
	}
	return place{Boot: strings.TrimSpace(string(boot)), Namespace: st.Ino}, nil
}

// uptime is the age of this boot in seconds, suspended time included.
func uptime() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // no such clock: nothing ages
	}
	return uint32(ts.Sec)
}

// self is the calling process.
func self() (process, error) {
	start, _, err := procStat(os.Getpid())
	if err != nil {
		return process{}, fmt.Errorf("tell this process from others: %w", err)
	}
	return process{PID: os.Getpid(), Start: start}, nil
}

// alive reports whether p still runs. A zombie does not, nor who is about to be
// one: it has given its memory back, and takes no step of its own any more.
func alive(p process) bool {
	start, runs, err := procStat(p.PID)
	return err == nil && runs && start == p.Start
}

// procStat reads start time and state of a process (proc_pid_stat(5)).
func procStat(pid int) (start uint64, runs bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false, err
	}
	// The name in field 2 may hold blanks and parentheses: count from its end.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 21 {
		return 0, false, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	const state, starttime, vsize = 0, 19, 20
	start, err = strconv.ParseUint(fields[starttime], 10, 64)
	return start, fields[state] != "Z" && fields[state] != "X" && fields[vsize] != "0", err
}
