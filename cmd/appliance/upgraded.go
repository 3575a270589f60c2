package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/services/admin"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "put another binary in the place of the running one; connections go on",
		ArgsUsage: "[BINARY]",
		Description: "BINARY is started beside the running appliance and shows that it can read\n" +
			"its state. Then everything rests for a moment, the live connections go over,\n" +
			"and the old process ends. If anything fails before, the old one goes on.\n" +
			"Without BINARY it is the running one's own file, which may be a new one by\n" +
			"now; SIGUSR2 does the same.\n\n" +
			"If BINARY says that it cannot read the connections of the running version they\n" +
			"are drained, by the drain profile `upgrade`, and it starts afterwards.\n\n" +
			"The configuration stays what is in force. Handshakes under way finish before;\n" +
			"clients that come in between have their SYN answered when they send it again.",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.BoolFlag{Name: "live-only", Usage: "change nothing if connections cannot go over, instead of draining them"},
			jsonFlag(),
		},
		Action: upgradeAction,
	}
}

func upgradeAction(c *cli.Context) error {
	if c.NArg() > 1 {
		return usageErr{fmt.Errorf("upgrade takes one binary, not %d", c.NArg())}
	}
	path := c.Args().First()
	if path != "" && remote(c) {
		return usageErr{errRemoteFile}
	}
	if path != "" { // the daemon has a directory of its own
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		path = abs
	}
	up, err := admin.NewClient(c.String("socket")).Upgrade(c.Context, path, c.Bool("live-only"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, up)
	}
	if up.Drains != "" {
		_, err = fmt.Fprintf(c.App.Writer, "%s: connections drain now, for up to %s, and then version %s starts\n", up.Drains, span(up.Within), up.Version)
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "process %d runs version %s in the place of %s: %d connections went over, %d were lost, nothing moved for %s\n",
		up.PID, up.Version, up.From, up.Connections, up.Lost, up.Rested.Round(time.Millisecond))
	return err
}
