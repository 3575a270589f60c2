package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Exit statuses of every command; 3 and 4 are those of a drain.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2 // wrong command line or configuration
	exitReset   = 3 // some connections had to be reset
	exitUnacked = 4 // some FINs of ours stayed unacknowledged
)

// exitCode is an error that only carries a status: everything was said already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageErr is an error of the command line itself.
type usageErr struct{ error }

func (e usageErr) Unwrap() error { return e.error }

// usageError is for mistakes in flags of the program itself.
func usageError(_ *cli.Context, err error, _ bool) error { return misused("appliance", err) }

// misused is a mistake in a command line, with where to read more.
func misused(command string, err error) error {
	return usageErr{fmt.Errorf("%w (see `%s --help`)", err, command)}
}

func noCommand(c *cli.Context) error {
	if c.NArg() == 0 {
		return cli.ShowAppHelp(c)
	}
	err := fmt.Errorf("there is no command %q", c.Args().First())
	if like := cli.SuggestCommand(c.App.Commands, c.Args().First()); like != "" {
		err = fmt.Errorf("%w. %s", err, strings.TrimSpace(like))
	}
	return misused("appliance", err)
}

// strict makes a command of parent refuse arguments it doesn't name in its
// ArgsUsage, and gives its mistakes the status 2.
func strict(c *cli.Command, parent string) {
	name := parent + " " + c.Name
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return misused(name, err) }
	for _, sub := range c.Subcommands {
		strict(sub, name)
	}
	if c.Action == nil {
		return
	}
	action, most := c.Action, len(strings.Fields(c.ArgsUsage))
	many := strings.Contains(c.ArgsUsage, "...")
	c.Action = func(ctx *cli.Context) error {
		if ctx.NArg() > most && !many {
			return misused(name, fmt.Errorf("%q is one argument too many", ctx.Args().Get(most)))
		}
		return action(ctx)
	}
}
