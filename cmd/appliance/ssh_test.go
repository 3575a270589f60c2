package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// login is a key, and where it logs in.
type login struct {
	r      *rig
	addr   string
	user   string
	signer ssh.Signer
	file   string        // the private key
	line   string        // of authorized_keys
	host   ssh.PublicKey // that was seen last
}

func newLogin(r *rig, addr string) *login {
	r.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		r.t.Fatal(err)
	}
	l := &login{r: r, addr: addr, user: "admin", file: filepath.Join(r.t.TempDir(), "key")}
	if err := os.WriteFile(l.file, pem.EncodeToMemory(block), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if l.signer, err = ssh.NewSignerFromKey(private); err != nil {
		r.t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		r.t.Fatal(err)
	}
	l.line = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " tester"
	return l
}

// try logs in.
func (l *login) try() (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(l.r.t.Context(), 10*time.Second)
	defer cancel()
	c, err := l.r.client.Dial(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	conn, chans, requests, err := ssh.NewClientConn(c, l.addr, &ssh.ClientConfig{
		User: l.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(l.signer), ssh.Password("secret")}, Timeout: 10 * time.Second,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { l.host = key; return nil },
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	return ssh.NewClient(conn, chans, requests), nil
}

func (l *login) in() *ssh.Client {
	l.r.t.Helper()
	c, err := l.try()
	if err != nil {
		l.r.t.Fatalf("log in at %s: %v", l.addr, err)
	}
	l.r.t.Cleanup(func() { c.Close() })
	return c
}

// ask runs one command.
func ask(t *testing.T, c *ssh.Client, command, stdin string) (out string, status int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Stdin = strings.NewReader(stdin)
	var both bytes.Buffer
	both.Grow(1 << 16)
	s.Stdout = &both
	var stderr bytes.Buffer
	s.Stderr = &stderr
	err = s.Run(command)
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitStatus()
	case err != nil:
		t.Fatalf("%s: %v", command, err)
	}
	return both.String() + stderr.String(), status
}

const sshServices = "services:\n  own: {type: echo, listen: \"wan0:77\"}\n"

// configureSSH is configure with SSH for some keys.
func (r *rig) configureSSH(keys ...string) {
	r.t.Helper()
	text := interfacesYAML + sshServices + "admin:\n  socket: " + r.socket + "\n  ssh:\n    listen: wan0:22\n    authorized_keys:\n"
	for _, k := range keys {
		text += "      - " + k + "\n"
	}
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func TestCommandsOverSSH(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := newLogin(r, "192.0.2.10:22")
	r.configureSSH(l.line)
	p := r.start()
	c := l.in()

	open := r.dial("192.0.2.10:77")
	exchange(t, open, "hello\n", "hello\n")
	out, status := ask(t, c, "status", "")
	contains(t, "status", out, "is serving", "own", "SSH on 192.0.2.10:22 [2001:db8::10]:22: 1 logged in")
	if status != 0 {
		t.Errorf("got exit status %d, want 0", status)
	}
	out, _ = ask(t, c, "appliance conns --brief", "") // as on the box
	contains(t, "conns", out, "own", "192.0.2.2")

	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "type: echo", "type: echo, max_conns: 5", 1)
	out, status = ask(t, c, "config apply -", changed)
	contains(t, "config apply", out, "+ services.own.max_conns: 5", "1 change in force")
	if status != 0 {
		t.Errorf("got exit status %d from config apply, want 0", status)
	}
	if now, err := os.ReadFile(r.file); err != nil || string(now) != changed {
		t.Errorf("got file\n%s\nand error %v, want the text that was sent", now, err)
	}

	for command, want := range map[string]string{
		"sh":                              `there is no command "sh"`,
		"run":                             `there is no command "run"`,
		"check":                           `there is no command "check"`,
		"nic list":                        `there is no command "nic"`,
		"config apply /etc/passwd":        "files of the box can't be named",
		"upgrade /bin/sh":                 "files of the box can't be named",
		"policy list -c /etc/passwd":      "files of the box can't be named",
		"status --socket /tmp/other":      "files of the box can't be named",
		"status 'no end":                  "a quote is not closed",
		"status; sh":                      `there is no command "status;"`,
		"drain report --state-dir /root/": "files of the box can't be named",
	} {
		out, status := ask(t, c, command, "")
		contains(t, command, out, want)
		if status != exitUsage {
			t.Errorf("%s: got exit status %d, want %d", command, status, exitUsage)
		}
	}

	if _, err := c.Dial("tcp", "10.0.0.21:22"); err == nil || !strings.Contains(err.Error(), "nothing is forwarded") {
		t.Errorf("got %v for a forwarded connection, want it refused", err)
	}
	if _, err := c.Listen("tcp", "0.0.0.0:8080"); err == nil {
		t.Error("a port of the box is forwarded")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("files can be transferred")
	}
	if err := s.Setenv("LD_PRELOAD", "x"); err == nil {
		t.Error("an environment is taken")
	}

	stranger := newLogin(r, l.addr)
	if _, err := stranger.try(); err == nil {
		t.Error("a key that is not in the configuration logs in")
	}
	root := *l
	root.user = "root"
	if _, err := root.try(); err == nil {
		t.Error("user root logs in")
	}
	// Another key counts after a reload, and connections go on.
	r.configureSSH(l.line, stranger.line)
	if out, status := ask(t, c, "reload", ""); status != 0 {
		t.Fatalf("reload: status %d, %s", status, out)
	}
	ask(t, stranger.in(), "version", "")

	eventually(t, 10*time.Second, "two failures are counted", func() bool {
		out, _ := ask(t, c, "status", "")
		return strings.Contains(out, "failed 2") && strings.Contains(out, "2 logged in")
	})
	open.Close()
	host := l.host
	p.stop() // with two sessions open

	p = r.start()
	l.in()
	if !bytes.Equal(l.host.Marshal(), host.Marshal()) {
		t.Error("the host has another key after a restart")
	}
	info, err := os.Stat(filepath.Join(r.dir, "nic", "ssh_host_ed25519_key"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v and error %v, want the host key with mode 0600", info, err)
	}
	p.stop()
}

// screenOf is an interactive session, as a person has it.
type screenOf struct {
	t       *testing.T
	in      io.Writer
	out     output
	session *ssh.Session
	ended   chan error
}

func interactive(t *testing.T, c *ssh.Client) *screenOf {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 40, 120, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	v := &screenOf{t: t, session: s, ended: make(chan error, 1)}
	s.Stdout = &v.out
	if v.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	return v
}

// types sends keys and waits until something new shows that holds want.
func (v *screenOf) types(keys, want string) {
	v.t.Helper()
	before := len(v.out.String())
	if _, err := io.WriteString(v.in, keys); err != nil {
		v.t.Fatal(err)
	}
	eventually(v.t, 10*time.Second, fmt.Sprintf("%q after %q", want, keys), func() bool {
		return strings.Contains(v.out.String()[before:], want)
	})
}

func TestAPromptOverSSH(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := newLogin(r, "192.0.2.10:22")
	r.configureSSH(l.line)
	p := r.start()
	c := l.in()
	v := interactive(t, c)
	v.types("", "appliance> ")
	v.types("sta\t\r", "is serving") // Tab completes
	v.types("\x1b[A\r", "is serving")
	v.types("con\t\t", "conns")       // two candidates
	v.types("\x03sh\r", "no command") // ^C clears the line
	v.types("conns --watch --every 100ms\r", "\x1b[2J")
	v.types("\x03", "appliance> ") // and ends a command
	v.types("config apply -\r", "")
	v.types("interfaces: {}\r\x04", "the configuration stays as it was")
	v.types("version\r", "version")
	if _, err := io.WriteString(v.in, "\x04"); err != nil {
		t.Fatal(err)
	}
	if err := v.session.Wait(); err != nil {
		t.Errorf("got %v at the end of a session by ^D, want nil", err)
	}

	// A command with a terminal ends at ^C too, and with its session.
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 40, 120, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	var out output
	s.Stdout = &out
	if err := s.Start("conns --watch"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "a screen", func() bool { return strings.Contains(out.String(), "\x1b[2J") })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, 10*time.Second, "the command has ended", func() bool { return strings.Contains(p.log.String(), `command="conns --watch"`) })

	// What waits for a person ends with the appliance.
	v = interactive(t, c)
	v.types("", "appliance> ")
	p.signal(15)
	eventually(t, 10*time.Second, "the last word", func() bool { return strings.Contains(v.out.String(), "This session ends") })
	if code := p.end(20 * time.Second); code != exitOK {
		t.Errorf("got exit status %d, want 0: SSH is no reason for another", code)
	}
}

func TestWhoFailsToLogInByFarTooOftenWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l, stranger := newLogin(r, "192.0.2.10:22"), newLogin(r, "192.0.2.10:22")
	r.configureSSH(l.line)
	p := r.start()
	for range 10 {
		if _, err := stranger.try(); err == nil {
			t.Fatal("a stranger logs in")
		}
	}
	eventually(t, 10*time.Second, "ten failures", func() bool {
		s, err := r.admin.Status(t.Context())
		return err == nil && s.SSH.Counters["failed"] == 10
	})
	if _, err := l.try(); err == nil {
		t.Error("a login after ten failures of the same host")
	}
	six := *l
	six.addr = "[2001:db8::10]:22"
	out, _ := ask(t, six.in(), "status", "") // another address of the same host
	contains(t, "status", out, "failed 10", "throttled 1")
	p.stop()
}

func TestAnUpgradeOverSSHEndsTheSessionAndTheNextOneIsWithTheNewProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	l := newLogin(r, "192.0.2.10:22")
	r.configureSSH(l.line)
	first := r.startLine()
	c := r.dial("192.0.2.10:77")
	exchange(t, c, "before\n", "before\n")
	session, err := l.in().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Run("upgrade"); err == nil {
		t.Error("got a status of an upgrade from the process that has ended, want none")
	}
	first.awaitEnd(first.pid)
	exchange(t, c, "after\n", "after\n")
	out, _ := ask(t, l.in(), "status", "")
	contains(t, "status", out, "is serving", "1 logged in")
}

func TestTheSSHProgram(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh program (apt-get install openssh-client); golang.org/x/crypto/ssh is the client of the other tests")
	}
	r := newRig(t, nil)
	l := newLogin(r, "192.0.2.10:22")
	r.configureSSH(l.line)
	p := r.start()
	ssh := func(stdin string, args ...string) (string, int) {
		t.Helper()
		args = append([]string{"-F", "none", "-i", l.file, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
			"-o", "UserKnownHostsFile=" + filepath.Join(filepath.Dir(l.file), "known")}, args...)
		cmd := exec.Command(program, args...)
		cmd.Stdin = strings.NewReader(stdin)
		var out output
		cmd.Stdout, cmd.Stderr = &out, &out
		select {
		case err := <-labtest.Start(t, r.client, cmd):
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("ssh %v does not end:\n%s", args, out.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
	out, status := ssh("", "admin@192.0.2.10", "status")
	contains(t, "ssh status", out, "is serving")
	if status != 0 {
		t.Errorf("got exit status %d, want 0", status)
	}
	out, status = ssh("", "admin@192.0.2.10", "conns", "state", "nowhere")
	if status != exitUsage {
		t.Errorf("got exit status %d of a wrong command, want 2:\n%s", status, out)
	}
	out, status = ssh("interfaces: {}\n", "admin@192.0.2.10", "config", "apply", "-")
	if contains(t, "ssh config apply", out, "stays as it was"); status != exitError {
		t.Errorf("got exit status %d of a wrong configuration, want 1", status)
	}
	out, _ = ssh("status\rexit\r", "-tt", "admin@192.0.2.10")
	contains(t, "ssh with a terminal", out, "appliance> ", "is serving")
	if out, status = ssh("", "root@192.0.2.10", "status"); status == 0 {
		t.Errorf("root logs in:\n%s", out)
	}
	p.stop()
}
