package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/console"
	"github.com/lastack/lastack/internal/wholefile"
)

func consoleCommand() *cli.Command {
	return &cli.Command{
		Name: "console", Usage: "serve the commands on a serial line, with a login",
		Description: "Who has the password gets a prompt with the commands that ask the daemon; there\n" +
			"is no shell. The password is that of admin.console.password_hash, or the one\n" +
			"that `passwd` has set. While there is none, only `status` and `passwd` may be\n" +
			"used: who stands at the box sets it.",
		Flags: []cli.Flag{
			configFlag(), stateDirFlag(),
			&cli.StringFlag{Name: "tty", Usage: "the terminal `DEVICE`", Value: "/dev/ttyS0", TakesFile: true},
		},
		Action: consoleAction,
	}
}

func passwdCommand() *cli.Command {
	return &cli.Command{
		Name: "passwd", Usage: "set the password of the console",
		Description: "The password is the first line of standard input. Its hash (bcrypt) goes into\n" +
			"the state directory, or is printed for admin.console.password_hash.",
		Flags: []cli.Flag{
			stateDirFlag(),
			&cli.BoolFlag{Name: "print", Usage: "print the hash and set nothing"},
		},
		Action: passwdAction,
	}
}

func passwdAction(c *cli.Context) error {
	line, err := bufio.NewReader(c.App.Reader).ReadString('\n')
	if err != nil && line == "" {
		return errors.New("no password is in standard input")
	}
	hash, err := console.Hash(strings.TrimRight(line, "\r\n"))
	if err != nil {
		return err
	}
	if c.Bool("print") {
		_, err = fmt.Fprintln(c.App.Writer, hash)
		return err
	}
	return setPassword(c.String("state-dir"), hash)
}

func passwordFile(stateDir string) string { return filepath.Join(stateDir, "console_password") }

func setPassword(stateDir, hash string) error {
	return wholefile.Write(passwordFile(stateDir), []byte(hash+"\n"), 0o600)
}

// errPassword is the answer to who would set a password that does not count.
var errPassword = errors.New("the password is that of the configuration: change admin.console.password_hash there (`appliance passwd --print` makes one)")

func consoleAction(c *cli.Context) error {
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	for {
		err := serveConsole(ctx, c.String("tty"), c.String("config"), c.String("state-dir"))
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, console.ErrGone) {
			return err
		}
		select { // a line that was hung up comes back
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// serveConsole serves a terminal until ctx ends or it goes away.
func serveConsole(ctx context.Context, device, configFile, stateDir string) error {
	tty, err := console.OpenTTY(device)
	if err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	defer tty.Close()
	host := hostname()
	if host == "" {
		host = "appliance"
	}
	return console.Serve(ctx, tty, console.Login{
		Host: host, Commands: &consoleCommands{configFile, stateDir}, Open: []string{"status", "version"},
		Idle: 15 * time.Minute, Pause: 2 * time.Second,
		Hash: func() string { return consolePassword(configFile, stateDir) },
		Set: func(hash string) error {
			if adminOf(configFile).Console.PasswordHash != "" {
				return errPassword
			}
			return setPassword(stateDir, hash)
		},
	})
}

// consolePassword is the hash that counts at this moment. A file that can't be
// read is no empty one: nobody logs in then.
func consolePassword(configFile, stateDir string) string {
	if hash := adminOf(configFile).Console.PasswordHash; hash != "" {
		return hash
	}
	text, err := os.ReadFile(passwordFile(stateDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil || strings.TrimSpace(string(text)) == "":
		return "*"
	}
	return strings.TrimSpace(string(text))
}

// adminOf is that section of the file as it is now, or its defaults.
func adminOf(file string) config.Admin {
	conf, err := config.Load(file)
	if err != nil {
		return config.Admin{Socket: config.DefaultSocket}
	}
	return conf.Admin
}

// consoleCommands ask the daemon behind the socket that the file names now.
type consoleCommands struct{ config, stateDir string }

func (k *consoleCommands) commander() commander {
	return commander{socket: adminOf(k.config).Socket, config: k.config, stateDir: k.stateDir}
}

// Run implements console.Commands.
func (k *consoleCommands) Run(ctx context.Context, words []string, s console.Streams) int {
	return k.commander().Run(ctx, words, s)
}

// Complete implements console.Commands.
func (k *consoleCommands) Complete(words []string) []string { return k.commander().Complete(words) }
