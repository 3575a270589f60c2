package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/boot"
	"github.com/lastack/lastack/internal/console"
)

// commander runs the commands that may be used from afar or at a console, where
// nobody has a shell: those that ask the daemon. What names files of the box is
// fixed, or refused.
type commander struct {
	socket, config, stateDir string
}

var _ console.Commands = commander{}

// remoteCommands are those that ask the daemon.
func remoteCommands() []*cli.Command {
	return []*cli.Command{
		statusCommand(), connsCommand(), connCommand(), drainCommand(), undrainCommand(), configCommand(), reloadCommand(),
		upgradeCommand(), suspendCommand(), policyCommand(),
		updateCommand(), rebootCommand(), poweroffCommand(), factoryResetCommand(), boxLogCommand(), versionCommand(),
	}
}

// remoteKey marks an app whose user is not on the box.
const remoteKey = "remote"

// remote reports whether the user is not on the box.
func remote(c *cli.Context) bool {
	_, is := c.App.Metadata[remoteKey]
	return is
}

// errRemoteFile is the answer to who names a file of the box.
var errRemoteFile = errors.New("files of the box can't be named from here")

func (r commander) app(s console.Streams) *cli.App {
	app := newApp(s.Out, s.Err)
	app.Usage = "the appliance's command line"
	app.Reader = s.In
	app.Commands = remoteCommands()
	app.EnableBashCompletion = false
	app.Metadata = map[string]interface{}{remoteKey: true}
	for _, c := range app.Commands {
		r.fix(c)
	}
	return app
}

// fix gives the flags that name files their only value: those with TakesFile.
func (r commander) fix(c *cli.Command) {
	for _, sub := range c.Subcommands {
		r.fix(sub)
	}
	fixed := map[string]string{"socket": r.socket, "config": r.config, "state-dir": r.stateDir, "box": boot.ControlSocket}
	var names []string
	for _, f := range c.Flags {
		one, ok := f.(*cli.StringFlag)
		if !ok || !one.TakesFile {
			continue
		}
		if value, is := fixed[one.Name]; is {
			one.Value = value
		}
		one.EnvVars, one.Hidden = nil, true
		names = append(names, one.Name)
	}
	if action := c.Action; action != nil && len(names) > 0 {
		c.Action = func(ctx *cli.Context) error {
			if i := slices.IndexFunc(names, ctx.IsSet); i >= 0 {
				return usageErr{fmt.Errorf("--%s: %w", names[i], errRemoteFile)}
			}
			return action(ctx)
		}
	}
}

// Run implements console.Commands.
func (r commander) Run(ctx context.Context, words []string, s console.Streams) int {
	if len(words) > 0 && words[0] == "appliance" { // as on the box
		words = words[1:]
	}
	return perform(ctx, r.app(s), append([]string{"appliance"}, words...), s.Err)
}

// Complete implements console.Commands.
func (r commander) Complete(words []string) []string {
	commands, flags := remoteCommands(), []cli.Flag(nil)
	for _, w := range words[:len(words)-1] {
		if w == "appliance" {
			continue
		}
		next := find(commands, w)
		if next == nil {
			commands = nil
			continue
		}
		commands, flags = next.Subcommands, next.Flags
	}
	var all []string
	for _, c := range commands {
		all = append(all, c.Name)
	}
	if len(words) == 1 {
		all = append(all, "exit", "help")
	}
	last := words[len(words)-1]
	if strings.HasPrefix(last, "-") {
		all = nil
		for _, f := range flags {
			if one, ok := f.(*cli.StringFlag); !ok || !one.TakesFile {
				all = append(all, "--"+f.Names()[0])
			}
		}
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(all)
	return all
}
