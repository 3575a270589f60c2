package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
)

// Confine takes from this process what the appliance has no use for, and makes it the appliance:
// file systems beyond what is listed, by Landlock, and new privileges for good. Its user and
// capabilities it was started with. It returns only with an error.
func Confine(root string, args []string) error {
	if len(args) == 0 {
		return errors.New("confine: no command")
	}
	at := func(names ...string) []string {
		for i, n := range names {
			names[i] = filepath.Join(root, n)
		}
		return names
	}
	// BestEffort: a kernel without Landlock runs it unconfined, which status shows. An absent path is
	// no error, the box may have none.
	err := landlock.V5.BestEffort().RestrictPaths(
		landlock.RWDirs(at("data/config", "data/state", "run", "tmp")...).IgnoreIfMissing(),
		landlock.RODirs(at("etc", "proc", "sys", "esp", "data/log")...).IgnoreIfMissing(),
		landlock.RWDirs(at("proc/sys/net")...).IgnoreIfMissing(), // the cards' settings
		landlock.RWFiles(at("dev/null", "dev/zero", "dev/urandom", "dev/random")...).IgnoreIfMissing(),
		landlock.RWFiles(at("dev/ttyS0", "dev/ttyS1", "dev/ttyAMA0", "dev/tty1", "dev/hvc0")...).WithIoctlDev().IgnoreIfMissing(), // those it owns: the console
		landlock.ROFiles(at("init")...).IgnoreIfMissing(),
	)
	if err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	// Under the name it is known by; /proc/self/exe is the same file.
	err = syscall.Exec(filepath.Join(root, "init"), append([]string{"appliance"}, args...), os.Environ())
	return fmt.Errorf("confine: %w", err)
}
