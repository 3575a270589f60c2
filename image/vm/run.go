package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/lastack/lastack/image"
)

// Run boots a machine whose console is the given files, and waits until it has
// powered off. When ctx ends the power is cut.
func Run(ctx context.Context, c Config, stdin io.Reader, stdout, stderr io.Writer) error {
	program, args, err := c.command()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.SysProcAttr = orphanless()
	return cmd.Run()
}

// KVMWorks boots the machine with KVM, without a trace on its disk, until the
// kernel says a word. That the device is there says little: within some virtual machines
// KVM runs no kernel but its own.
func KVMWorks(ctx context.Context, c Config, patience time.Duration) bool {
	if !hasKVM(c.Arch) {
		return false
	}
	dir, err := os.MkdirTemp("", "lastack-kvm-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir) // a rest in the temporary directory harms nobody
	c.KVM, c.Snapshot, c.Forwards, c.Vars = true, true, nil, filepath.Join(dir, "vars")
	m, err := Start(c)
	if err != nil {
		return false
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	_, err = m.Expect(ctx, Booted)
	return errors.Join(err, m.Close()) == nil
}

// Booted is what the console of a machine shows once its kernel runs process 1.
const Booted = `(?i)lastack`

func hasKVM(a image.Arch) bool {
	if string(a) != runtime.GOARCH {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	return err == nil && f.Close() == nil
}
