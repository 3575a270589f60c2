package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/tcpinfo"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

func connCommand() *cli.Command {
	return &cli.Command{
		Name:        "conn",
		Usage:       "look into one connection, or end it",
		Description: "The ID is the first column of `appliance conns`.",
		Action:      noCommand,
		Subcommands: []*cli.Command{
			{
				Name:      "why",
				Usage:     "tell how a connection went, and why it ended",
				ArgsUsage: "ID",
				Flags:     []cli.Flag{socketFlag(), jsonFlag()},
				Action:    whyAction,
			},
			{
				Name:      "probe",
				Usage:     "send both sides a keepalive segment now and tell what they answer",
				ArgsUsage: "ID",
				Description: "alive: it answers. not reading: its kernel answers, but its window is closed,\n" +
					"so the application does not read. reset: it knows nothing of the connection.\n" +
					"dead: no answer to three segments in three seconds. The exit status is 1\n" +
					"unless both sides are alive.",
				Flags:  []cli.Flag{socketFlag(), jsonFlag()},
				Action: probeAction,
			},
			{
				Name:      "kill",
				Usage:     "end a connection: FIN both ways, or RST",
				ArgsUsage: "ID",
				Description: "FIN goes behind what was read so far; a side that does not answer it within\n" +
					"fin_wait2 of the policy is reset.",
				Flags: []cli.Flag{socketFlag(),
					&cli.BoolFlag{Name: "rst", Usage: "reset both sides at once: data under way is lost"}},
				Action: killAction,
			},
		},
	}
}

// connID is the command's argument.
func connID(c *cli.Context) (uint64, error) {
	if c.NArg() != 1 {
		return 0, usageErr{errors.New("name one connection by its ID, as in `appliance conn " + c.Command.Name + " 42`: see `appliance conns`")}
	}
	id, err := strconv.ParseUint(c.Args().First(), 10, 64)
	if err != nil {
		return 0, usageErr{fmt.Errorf("%q is no connection's ID: it is a number, see `appliance conns`", c.Args().First())}
	}
	return id, nil
}

// unknown explains an ID that nobody knows.
func unknown(id uint64, err error, hint string) error {
	if errors.Is(err, services.ErrUnknown) {
		return fmt.Errorf("no connection %d: %s", id, hint)
	}
	return err
}

func killAction(c *cli.Context) error {
	id, err := connID(c)
	if err != nil {
		return err
	}
	how, what := "fin", "FIN goes to both sides of"
	if c.Bool("rst") {
		how, what = "rst", "RST went to both sides of"
	}
	if err := admin.NewClient(c.String("socket")).Kill(c.Context, id, how); err != nil {
		return unknown(id, err, "it has ended already, see `appliance conn why "+fmt.Sprint(id)+"`")
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s connection %d\n", what, id)
	return err
}

func probeAction(c *cli.Context) error {
	id, err := connID(c)
	if err != nil {
		return err
	}
	p, err := admin.NewClient(c.String("socket")).Probe(c.Context, id)
	if err != nil {
		return unknown(id, err, "it has ended already, see `appliance conn why "+fmt.Sprint(id)+"`")
	}
	if c.Bool("json") {
		err = writeJSON(c, p)
	} else {
		err = writeProbed(c.App.Writer, p)
	}
	if err == nil && (p.Client.Alive != tcpinfo.Answers || p.Backend != nil && p.Backend.Alive != tcpinfo.Answers) {
		return exitCode(exitError)
	}
	return err
}

func writeProbed(w io.Writer, p services.Probed) error {
	if _, err := fmt.Fprintln(w, "client: "+alive(p.Client)); err != nil || p.Backend == nil {
		return err
	}
	_, err := fmt.Fprintln(w, "backend: "+alive(*p.Backend))
	return err
}

// alive is an answer in words.
func alive(p tcpinfo.Probe) string {
	switch p.Alive {
	case tcpinfo.Answers:
		return fmt.Sprintf("alive, answered after %s, window %s", span(p.RTT), size(uint64(p.Window)))
	case tcpinfo.NotReading:
		return fmt.Sprintf("not reading: its kernel answered after %s, but its window is closed", span(p.RTT))
	case tcpinfo.WasReset:
		return "reset: it knows nothing of this connection"
	case tcpinfo.NoAnswer:
		return fmt.Sprintf("dead: no answer to %s", count(p.Sent, "segment"))
	}
	return "not probed: it is not connected"
}

func whyAction(c *cli.Context) error {
	id, err := connID(c)
	if err != nil {
		return err
	}
	one, err := admin.NewClient(c.String("socket")).Conn(c.Context, id)
	if err != nil {
		return unknown(id, err, "it never was, or ended so long ago that the ledger has forgotten it (key `ledger` of the service)")
	}
	if c.Bool("json") {
		return writeJSON(c, one)
	}
	return writeWhy(c.App.Writer, one, time.Now())
}
