package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// keyboard is a person at a serial console.
type keyboard struct {
	t      *testing.T
	master *os.File
	out    output
	seen   int // of what was written
}

// openPTY makes a terminal, and returns its other end's name.
func openPTY(t *testing.T) (*keyboard, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := c.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || n < 0 {
		t.Fatal(err)
	}
	k := &keyboard{t: t, master: master}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			k.out.Write(buf[:n])
			if err != nil && !strings.Contains(err.Error(), "input/output error") { // nobody has it open at the moment
				return
			}
			if err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	t.Cleanup(func() {
		master.Close()
		<-done
		if t.Failed() {
			t.Logf("the screen:\n%s", k.out.String())
		}
	})
	return k, fmt.Sprintf("/dev/pts/%d", n)
}

// types sends keys and waits until want shows behind what was waited for before.
func (k *keyboard) types(keys, want string) {
	k.t.Helper()
	if _, err := k.master.WriteString(keys); err != nil {
		k.t.Fatal(err)
	}
	eventually(k.t, 20*time.Second, fmt.Sprintf("%q after %q", want, keys), func() bool {
		at := strings.Index(k.out.String()[k.seen:], want)
		if at >= 0 {
			k.seen += at + len(want)
		}
		return at >= 0
	})
}

func TestTheConsoleOfABoxWithoutAPasswordIsForWhoSetsOne(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.configure(sshServices)
	daemon := r.start()
	k, device := openPTY(t)
	cmd := r.appliance("console", "--tty", device, "-c", r.file)
	log := &output{}
	cmd.Stdout, cmd.Stderr = log, log
	ended := labtest.Start(t, r.box, cmd)
	k.types("", "no password is set")
	k.types("conns\r", "set a password first")
	k.types("status\r", "is serving")
	k.types("passwd\r", "new password: ")
	k.types("short\r", "once more: ")
	k.types("short\r", "a password has 8 to 72 bytes")
	k.types("passwd\r", "new password: ")
	k.types("correct horse\r", "once more: ")
	k.types("correct horse\r", "the password is set")
	k.types("", "password: ") // from now on one logs in
	k.types("wrong horse\r", "wrong")
	k.types("", "password: ")
	k.types("\x04", "password: ")
	k.types("correct horse\r", "lists the commands")
	k.types("con\t\t", "conns")
	k.types("ns --closed\r", "ID")
	k.types("conns --watch --every 100ms\r", "\x1b[2J")
	k.types("\x03", "> ")
	k.types("sh\r", `there is no command "sh"`)
	k.types("\x04", "password: ") // logged out
	if strings.Contains(k.out.String(), "horse") {
		t.Error("the password shows")
	}
	info, err := os.Stat(filepath.Join(r.dir, "nic", "console_password"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v and error %v, want the hash with mode 0600", info, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the console ended with %v:\n%s", err, log)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the console does not end")
	}
	daemon.stop()
}

func TestAPasswordOfTheConfigurationGoesBeforeTheOneThatWasSet(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	hash, stderr, code := r.runWith("battery staple\n", "passwd", "--print")
	if code != exitOK {
		t.Fatalf("passwd: status %d, %s", code, stderr)
	}
	text := interfacesYAML + sshServices + "admin:\n  socket: " + r.socket + "\n  console: {password_hash: \"" + strings.TrimSpace(hash) + "\"}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k, device := openPTY(t)
	cmd := r.appliance("console", "--tty", device, "-c", r.file)
	labtest.Start(t, r.box, cmd)
	k.types("", "password: ")
	k.types("battery staple\r", "lists the commands")
	k.types("status\r", "no appliance runs behind "+r.socket)
	k.types("passwd\r", "new password: ")
	k.types("correct horse\r", "once more: ")
	k.types("correct horse\r", "the password is that of the configuration")
}
