package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/services/admin"
)

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "read the configuration file again and put the difference in force",
		Description: "As SIGHUP. What is unchanged goes on untouched, listeners included. A changed\n" +
			"policy counts for new connections, and its bounds for live ones; a removed\n" +
			"service or backend drains by the profile reload. A file that is wrong, or that\n" +
			"changes what needs a restart, changes nothing. `appliance config diff` tells\n" +
			"before what would change.",
		Flags: []cli.Flag{socketFlag(), jsonFlag()}, Action: reloadAction,
	}
}

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "compare the configuration file with what is in force", Action: noCommand,
		Subcommands: []*cli.Command{{
			Name: "diff", Usage: "tell what a reload would change, and for how many connections",
			Flags: []cli.Flag{socketFlag(), jsonFlag()}, Action: configDiffAction,
		}},
	}
}

func reloadAction(c *cli.Context) error {
	diff, err := admin.NewClient(c.String("socket")).Reload(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, diff)
	}
	return writeDiff(c.App.Writer, diff, "in force")
}

func configDiffAction(c *cli.Context) error {
	diff, err := admin.NewClient(c.String("socket")).ConfigDiff(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, diff)
	}
	if err := writeDiff(c.App.Writer, diff, "to come"); err != nil {
		return err
	}
	if err := reloadable(diff); err != nil {
		_, err = fmt.Fprintf(c.App.Writer, "A reload would refuse this: %v.\n", err)
		return err
	}
	return nil
}

// writeDiff shows each change as what goes and what comes.
func writeDiff(w io.Writer, d admin.ConfigDiff, what string) error {
	if len(d.Changes) == 0 {
		_, err := fmt.Fprintf(w, "%s says what is in force: nothing changes\n", d.File)
		return err
	}
	for _, c := range d.Changes {
		if c.Old != "" {
			fmt.Fprintf(w, "- %s: %s\n", c.Key, c.Old)
		}
		if c.New != "" {
			fmt.Fprintf(w, "+ %s: %s\n", c.Key, c.New)
		}
		if c.Connections > 0 {
			fmt.Fprintf(w, "  (%s)\n", count(c.Connections, "live connection"))
		}
	}
	_, err := fmt.Fprintf(w, "%s %s\n", count(len(d.Changes), "change"), what)
	return err
}
