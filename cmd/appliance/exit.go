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

func usageError(c *cli.Context, err error, _ bool) error {
	name := "appliance"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != name {
		name += " " + c.Command.Name
	}
	return usageErr{fmt.Errorf("%w (see `%s --help`)", err, name)}
}

func noCommand(c *cli.Context) error {
	if c.NArg() == 0 {
		return cli.ShowAppHelp(c)
	}
	err := fmt.Errorf("there is no command %q", c.Args().First())
	if like := cli.SuggestCommand(c.App.Commands, c.Args().First()); like != "" {
		err = fmt.Errorf("%w. %s", err, strings.TrimSpace(like))
	}
	return usageErr{fmt.Errorf("%w (see `appliance --help`)", err)}
}

// strict makes a command refuse arguments it doesn't name in its ArgsUsage,
// and gives its mistakes the status 2.
func strict(c *cli.Command) {
	c.OnUsageError = usageError
	for _, sub := range c.Subcommands {
		strict(sub)
	}
	if c.Action == nil {
		return
	}
	action, most := c.Action, len(strings.Fields(c.ArgsUsage))
	many := strings.Contains(c.ArgsUsage, "...")
	c.Action = func(ctx *cli.Context) error {
		if ctx.NArg() > most && !many {
			return usageErr{fmt.Errorf("%q is one argument too many (see `appliance %s --help`)", ctx.Args().Get(most), ctx.Command.FullName())}
		}
		return action(ctx)
	}
}
