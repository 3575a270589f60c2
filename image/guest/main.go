// Command guest is process 1 of a machine that has one test program to run, on
// the kernel of our images: it loads the modules of its archive in their stored
// order, runs /test with the arguments in /args, says on the console how that
// ended, and switches the power off. It has no goroutines.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/kmod"
)

func main() {
	status, err := run()
	if err != nil {
		fmt.Println("guest: the tests did not run:", err)
	} else {
		fmt.Println("guest: the tests ended with status", status)
	}
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // the last line leaves before the power does (tcdrain(3))
	fmt.Println("guest: switch the power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run() (status int, err error) {
	if os.Getpid() != 1 {
		return 0, errors.New("this is for process 1 of a machine of its own")
	}
	for at, kind := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs", "/tmp": "tmpfs"} {
		if err := unix.Mount(kind, at, kind, 0, ""); err != nil {
			return 0, fmt.Errorf("mount %s: %w", at, err)
		}
	}
	order, err := os.ReadFile(path.Join(image.ModulesDir, kmod.OrderFile))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(order)) {
		if file := strings.TrimSpace(line); !strings.HasPrefix(file, "#") {
			if err := load(file); err != nil {
				return 0, fmt.Errorf("load %s: %w", file, err)
			}
		}
	}
	args, err := os.ReadFile("/args")
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/test", strings.Fields(string(args))...)
	cmd.Env = []string{"APPLIANCE_TEST=require", "HOME=/tmp", "TMPDIR=/tmp"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return unix.FinitModule(int(f.Fd()), "", 0)
}
