package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/history"
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
	confirm := &cli.DurationFlag{Name: "confirm", Usage: "take the change back after `TIME` unless `appliance config confirm` comes"}
	restart := &cli.BoolFlag{Name: "restart", Usage: "have what needs a restart come by one: connections drain, and the appliance starts again"}
	const restarts = "\n\nWith --restart connections drain (profile upgrade) if the change needs it, and the\n" +
		"appliance starts again with it. If it does not start, crashes or is not confirmed\n" +
		"it goes back: the appliance's file is written only when it serves, and is confirmed."
	return &cli.Command{
		Name: "config", Usage: "see and change the configuration that is in force", Action: noCommand,
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "show the configuration that is in force, or one of the history", ArgsUsage: "[NUMBER]",
				Flags: []cli.Flag{socketFlag()}, Action: configShowAction,
			},
			{
				Name: "diff", Usage: "tell what a reload would change, and for how many connections",
				Flags: []cli.Flag{socketFlag(), jsonFlag()}, Action: configDiffAction,
			},
			{
				Name: "apply", Usage: "put a file in force and make it the appliance's own (- is standard input)", ArgsUsage: "FILE",
				Description: "A file that is wrong, or changes what needs a restart, changes nothing. With\n" +
					"--confirm the appliance's file is written only when the change is confirmed:\n" +
					"no confirmation, a crash or a restart take it back." + restarts,
				Flags: []cli.Flag{socketFlag(), jsonFlag(), confirm, restart}, Action: configApplyAction,
			},
			{
				Name: "confirm", Usage: "keep the change that waits for it",
				Flags: []cli.Flag{socketFlag()}, Action: configConfirmAction,
			},
			{
				Name: "history", Usage: "list the configurations that were in force, or tell what one of them changed", ArgsUsage: "[NUMBER]",
				Flags: []cli.Flag{socketFlag(), jsonFlag()}, Action: configHistoryAction,
			},
			{
				Name: "rollback", Usage: "put a configuration of the history in force again", ArgsUsage: "[NUMBER]",
				Description: "Without NUMBER it takes the change back that waits for its confirmation; one that\n" +
					"came by a restart goes by another." + restarts,
				Flags: []cli.Flag{socketFlag(), jsonFlag(), confirm, restart}, Action: configRollbackAction,
			},
		},
	}
}

// numberArg is the command's argument, 0 without one.
func numberArg(c *cli.Context) (int, error) {
	text := c.Args().First()
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, usageErr{fmt.Errorf("%q is no number of a configuration: see `appliance config history`", text)}
	}
	return n, nil
}

// changeOf is what the flags say of a change.
func changeOf(c *cli.Context) (admin.Change, error) {
	d := c.Duration("confirm")
	if d < 0 || d > 24*time.Hour || d > 0 && d < time.Second {
		return admin.Change{}, usageErr{fmt.Errorf("--confirm %s: allowed are 1s to 24h", d)}
	}
	return admin.Change{Confirm: d, Restart: c.Bool("restart")}, nil
}

func configShowAction(c *cli.Context) error {
	n, err := numberArg(c)
	if err != nil {
		return err
	}
	text, err := admin.NewClient(c.String("socket")).ConfigText(c.Context, n)
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.App.Writer, text)
	return err
}

// applyMost is more than a configuration may have: the daemon says so then.
const applyMost = 2 << 20

func configApplyAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageErr{errors.New("name the file to apply, or - for standard input")}
	}
	how, err := changeOf(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	var text []byte
	switch {
	case name == "-":
		text, err = io.ReadAll(io.LimitReader(c.App.Reader, applyMost))
	case remote(c):
		return usageErr{fmt.Errorf("%w: `config apply -` reads standard input, as in ssh admin@BOX config apply - < FILE", errRemoteFile)}
	default:
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return err
	}
	client := admin.NewClient(c.String("socket"))
	diff, err := client.ApplyConfig(c.Context, name, text, how)
	return tellChange(c, diff, err, how.Confirm)
}

func configRollbackAction(c *cli.Context) error {
	n, err := numberArg(c)
	if err != nil {
		return err
	}
	how, err := changeOf(c)
	if err != nil {
		return err
	}
	diff, err := admin.NewClient(c.String("socket")).RollbackConfig(c.Context, n, how)
	if n == 0 {
		how.Confirm = 0 // what is taken back stays so
	}
	return tellChange(c, diff, err, how.Confirm)
}

// tellChange shows what has changed, or will, and until when it must be confirmed.
func tellChange(c *cli.Context, diff admin.ConfigDiff, err error, confirm time.Duration) error {
	switch {
	case err != nil:
		return err
	case c.Bool("json"):
		return writeJSON(c, diff)
	}
	what, within := "in force", "within "+span(confirm)
	if diff.Within > 0 {
		what, within = "to come by a restart, within "+span(diff.Within), within+" of when it serves again"
	}
	if err := writeDiff(c.App.Writer, diff, what); err != nil || confirm == 0 {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "confirm %s (`appliance config confirm`), or it is taken back\n", within)
	return err
}

func configConfirmAction(c *cli.Context) error {
	if err := admin.NewClient(c.String("socket")).ConfirmConfig(c.Context); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.App.Writer, "confirmed")
	return err
}

func configHistoryAction(c *cli.Context) error {
	number, err := numberArg(c)
	if err != nil {
		return err
	}
	client := admin.NewClient(c.String("socket"))
	all, err := client.ConfigHistory(c.Context)
	if err != nil {
		return err
	}
	if number > 0 {
		return tellEntry(c, client, all, number)
	}
	if c.Bool("json") {
		return writeJSON(c, all)
	}
	t := newTable("NUMBER", "IN FORCE SINCE", "BY")
	for _, e := range all {
		t.row(fmt.Sprint(e.Number), e.Time.Local().Format(time.DateTime), e.Cause)
	}
	return t.write(c.App.Writer)
}

// tellEntry shows what a configuration of the history changed of the one before.
func tellEntry(c *cli.Context, client *admin.Client, all []history.Entry, number int) error {
	at := slices.IndexFunc(all, func(e history.Entry) bool { return e.Number == number })
	if at < 0 {
		return fmt.Errorf("%w: number %d; `appliance config history` lists them", history.ErrUnknown, number)
	}
	one := all[at]
	before := -1
	for i, e := range all { // in whatever order
		if e.Number < number && (before < 0 || e.Number > all[before].Number) {
			before = i
		}
	}
	diff := admin.ConfigDiff{Changes: []admin.ConfigChange{}}
	if before >= 0 {
		was, err := configOf(c, client, all[before].Number)
		if err != nil {
			return err
		}
		is, err := configOf(c, client, number)
		if err != nil {
			return err
		}
		changes, err := config.Diff(was, is)
		if err != nil {
			return err
		}
		for _, change := range changes {
			diff.Changes = append(diff.Changes, admin.ConfigChange{Change: change})
		}
	}
	if c.Bool("json") {
		return writeJSON(c, diff)
	}
	fmt.Fprintf(c.App.Writer, "%d, in force since %s, by %s\n", one.Number, one.Time.Local().Format(time.DateTime), one.Cause)
	switch {
	case before < 0:
		_, err := fmt.Fprintln(c.App.Writer, "the oldest that is kept")
		return err
	case len(diff.Changes) == 0:
		_, err := fmt.Fprintf(c.App.Writer, "it says the same as number %d\n", all[before].Number)
		return err
	}
	return writeDiff(c.App.Writer, diff, fmt.Sprintf("since number %d", all[before].Number))
}

// configOf reads a configuration of the history.
func configOf(c *cli.Context, client *admin.Client, number int) (*config.Config, error) {
	text, err := client.ConfigText(c.Context, number)
	if err != nil {
		return nil, err
	}
	return config.Parse(fmt.Sprintf("configuration %d", number), []byte(text))
}

func reloadAction(c *cli.Context) error {
	diff, err := admin.NewClient(c.String("socket")).Reload(c.Context)
	return tellChange(c, diff, err, 0)
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
