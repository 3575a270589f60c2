package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/flash"
	"github.com/lastack/lastack/image/vm"
)

func qemuCommand() *cli.Command {
	return &cli.Command{
		Name:      "qemu",
		Usage:     "boot an image in a virtual machine, with a backend to forward to",
		ArgsUsage: "[IMAGE]",
		Description: "The serial console is this terminal: Ctrl-A X ends the machine, Ctrl-A H shows\n" +
			"what else there is. The machine has two cards: ports of 127.0.0.1 lead to the\n" +
			"first, and behind the second is a web server that this command runs. Unless\n" +
			"--config names another, the configuration forwards from one to the other.\n\n" +
			"What the machine writes is forgotten at its end, unless --disk names a file.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "arch", Usage: "boot an image for `ARCH`, amd64 or arm64 (default: this machine's)"},
			&cli.StringFlag{Name: "disk", Usage: "keep the disk in `FILE`, and go on with it if it is there", TakesFile: true},
			&cli.StringFlag{Name: "config", Usage: "give the box the configuration in `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "authorized-keys", Usage: "let in over SSH who has one of the keys in `FILE` (default: your id_ed25519.pub)", TakesFile: true},
			&cli.UintFlag{Name: "http-port", Usage: "forward `PORT` of 127.0.0.1 to port 80", Value: 8080},
			&cli.UintFlag{Name: "ssh-port", Usage: "forward `PORT` of 127.0.0.1 to port 22", Value: 2222},
			&cli.UintFlag{Name: "backend-port", Usage: "run the web server on `PORT` of 127.0.0.1", Value: 8081},
			&cli.IntFlag{Name: "memory", Usage: "give it `N` MiB", Value: vm.DefaultMemory},
			&cli.IntFlag{Name: "cpus", Usage: "give it `N` processors", Value: 1},
			&cli.StringFlag{Name: "accel", Usage: "`HOW`: kvm, tcg (slow, works everywhere), or auto, which tries", Value: "auto"},
		},
		Action: qemuAction,
	}
}

func qemuAction(c *cli.Context) (err error) {
	m, err := qemuMachine(c)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "lastack-qemu-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := qemuDisk(c, &m, tmp); err != nil {
		return err
	}
	if err := qemuAccel(c, &m); err != nil {
		return err
	}
	stop, err := serveBackend(c.Uint("backend-port"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := tellQemu(c, m); err != nil {
		return err
	}
	// Ctrl-C is the guest's: QEMU takes the terminal over.
	ctx, end := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGHUP)
	defer end()
	err = vm.Run(ctx, m, os.Stdin, c.App.Writer, c.App.ErrWriter)
	if ctx.Err() != nil {
		return nil // we were told to
	}
	return err
}

func qemuMachine(c *cli.Context) (m vm.Config, err error) {
	for _, name := range []string{"http-port", "ssh-port", "backend-port"} {
		if p := c.Uint(name); p < 1 || p > 65535 {
			return m, usageErr{fmt.Errorf("--%s %d is no port", name, p)}
		}
	}
	m = vm.Config{Memory: c.Int("memory"), CPUs: c.Int("cpus"),
		Forwards: []vm.Forward{{Host: uint16(c.Uint("http-port")), Guest: 80}, {Host: uint16(c.Uint("ssh-port")), Guest: 22}}}
	if m.Arch, err = archOf(c); err != nil {
		return m, err
	}
	_, _, err = vm.Need(m.Arch)
	return m, err
}

// qemuDisk gives the machine a disk of its own, so that the image stays as it is.
func qemuDisk(c *cli.Context, m *vm.Config, tmp string) error {
	m.Disk = cmp.Or(c.String("disk"), filepath.Join(tmp, "disk.img"))
	m.Vars = m.Disk + ".vars"
	if _, err := os.Stat(m.Disk); err == nil {
		return nil // goes on
	}
	name := cmp.Or(c.Args().First(), "lastack-"+string(m.Arch)+".img")
	in, err := flash.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; make it: appliance image build --arch %s", err, m.Arch)
	}
	if err != nil {
		return err
	}
	defer in.Close() // only read
	files, err := qemuFiles(c)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(m.Disk, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = flash.CopySparse(out, in); err == nil {
		err = disk.Add(out, files)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(fmt.Errorf("make a disk of %s: %w", name, err), os.Remove(m.Disk))
	}
	return nil
}

// qemuFiles is what the user gives the box, or what shows it at work.
func qemuFiles(c *cli.Context) ([]disk.File, error) {
	files, err := provisionDisk(c)
	if err != nil {
		return nil, err
	}
	if c.String("config") == "" {
		files = append(files, disk.File{Path: image.ProvisionConfig, Data: []byte(vm.ExampleConfig(uint16(c.Uint("backend-port"))))})
	}
	if c.String("authorized-keys") == "" {
		if home, err := os.UserHomeDir(); err == nil {
			if key, err := os.ReadFile(filepath.Join(home, ".ssh", "id_ed25519.pub")); err == nil {
				files = append(files, disk.File{Path: image.ProvisionKeys, Data: key})
			}
		}
	}
	return files, nil
}

// kvmPatience is many times what a boot up to the kernel takes with KVM (2 s).
const kvmPatience = 20 * time.Second

func qemuAccel(c *cli.Context, m *vm.Config) error {
	switch accel := c.String("accel"); accel {
	case "tcg":
	case "kvm":
		m.KVM = true
	case "auto":
		if m.KVM = vm.KVMWorks(c.Context, *m, kvmPatience); !m.KVM {
			fmt.Fprintln(c.App.ErrWriter, "KVM doesn't start this image here: the machine is emulated (TCG), which is slow")
		}
	default:
		return usageErr{fmt.Errorf("--accel %q is none of auto, kvm and tcg", accel)}
	}
	return nil
}

// serveBackend runs the web server behind the box until stop.
func serveBackend(port uint) (stop func() error, err error) {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("start the web server behind the box: %w; another port can be given by --backend-port", err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What can't be written is the client's loss.
		_, _ = io.WriteString(w, "This is the backend, and "+r.RemoteAddr+" has forwarded you.\n")
	})}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }() // stop waits for it
	return func() error {
		err := s.Shutdown(context.Background())
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

func tellQemu(c *cli.Context, m vm.Config) error {
	how := "emulated"
	if m.KVM {
		how = "with KVM"
	}
	_, err := fmt.Fprintf(c.App.ErrWriter, "The machine (%s, %d MiB, %s) starts. From another terminal, once it is up:\n\n"+
		"   curl http://127.0.0.1:%d/        through the box to a web server behind it\n"+
		"   ssh -p %d admin@127.0.0.1 status\n\n"+
		"Ctrl-A X ends it.\n\n", m.Arch, m.Memory, how, c.Uint("http-port"), c.Uint("ssh-port"))
	return err
}
