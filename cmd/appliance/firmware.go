package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/boot"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
)

// firmware is what process 1 of a box needs from the rest of the program.
func firmware() boot.Options {
	return boot.Options{
		NewLog:  func(w io.Writer) *slog.Logger { return textLog(w, slog.LevelInfo, false) },
		Probe:   probe,
		Suspend: suspendThe,
	}
}

// adminClient is the client of the appliance that runs on a configuration, nil if that
// has no socket.
func adminClient(file string) (*admin.Client, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	if cfg.Admin.Socket == "" {
		return nil, nil
	}
	return admin.NewClient(cfg.Admin.Socket), nil
}

// probe asks the appliance how it is. One without a socket is taken at its
// word: it was ready, and gives signs of life.
func probe(ctx context.Context, file string) (h boot.Health, err error) {
	client, err := adminClient(file)
	if err != nil {
		return h, err
	}
	if client == nil {
		return boot.Health{Serving: true}, nil
	}
	s, err := client.Status(ctx)
	if err != nil {
		return h, err
	}
	h.Serving = s.Phase == services.Serving.String()
	for _, i := range s.Interfaces {
		if i.Up {
			h.Up = append(h.Up, i.Name)
		} else {
			h.Down = append(h.Down, i.Name)
		}
	}
	for _, one := range s.Services {
		if one.Phase != services.Serving.String() {
			h.Quiet = append(h.Quiet, one.Name)
		}
	}
	return h, nil
}

// suspendThe makes the appliance save its connections and end.
func suspendThe(ctx context.Context, file string) error {
	client, err := adminClient(file)
	if err != nil {
		return err
	}
	if client == nil {
		return errors.New("the configuration has no admin socket")
	}
	_, err = client.Suspend(ctx)
	return err
}

// confinedCommand is how process 1 starts the appliance.
func confinedCommand() *cli.Command {
	return &cli.Command{
		Name: boot.ConfinedCommand, Hidden: true, ArgsUsage: "...", SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			sabotageAppliance()
			args := c.Args().Slice()
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			return boot.Confine("/", args)
		},
	}
}

func boxFlag() cli.Flag {
	return &cli.StringFlag{Name: "box", Usage: "ask process 1 behind the unix `SOCKET`", Value: boot.ControlSocket, EnvVars: []string{"APPLIANCE_BOX_SOCKET"}, TakesFile: true, Hidden: true}
}

func theBox(c *cli.Context) *boot.Client { return boot.NewClient(c.String("box")) }

func rebootCommand() *cli.Command {
	return &cli.Command{
		Name:  "reboot",
		Usage: "boot this box again; connections are saved and go on afterwards",
		Description: "Peers wait meanwhile: Linux gives a connection up after some 15 minutes without\n" +
			"an answer. With --drain every connection ends in order before.",
		Flags:  []cli.Flag{boxFlag(), &cli.BoolFlag{Name: "drain", Usage: "end every connection in order instead of saving it"}},
		Action: func(c *cli.Context) error { return power(c, boot.Reboot, !c.Bool("drain")) },
	}
}

func poweroffCommand() *cli.Command {
	return &cli.Command{
		Name:   "poweroff",
		Usage:  "end every connection in order and switch this box off",
		Flags:  []cli.Flag{boxFlag()},
		Action: func(c *cli.Context) error { return power(c, boot.PowerOff, false) },
	}
}

func power(c *cli.Context, kind boot.Kind, suspend bool) error {
	if err := theBox(c).Power(c.Context, kind, suspend); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.App.Writer, "the box goes down (%s)\n", kind)
	return err
}

func factoryResetCommand() *cli.Command {
	return &cli.Command{
		Name:  "factory-reset",
		Usage: "forget all settings, keys and logs at the next boot, which begins now",
		Flags: []cli.Flag{boxFlag(), &cli.BoolFlag{Name: "yes", Usage: "it is meant"}},
		Action: func(c *cli.Context) error {
			if !c.Bool("yes") {
				return usageErr{errors.New("factory-reset removes all settings, keys, logs and saved connections from this box: --yes if that is meant")}
			}
			if err := theBox(c).FactoryReset(c.Context); err != nil {
				return err
			}
			return power(c, boot.Reboot, false)
		},
	}
}

func boxLogCommand() *cli.Command {
	return &cli.Command{
		Name:  "log",
		Usage: "show the end of this box's log, of former boots too",
		Flags: []cli.Flag{boxFlag()},
		Action: func(c *cli.Context) error {
			text, err := theBox(c).Log(c.Context)
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.App.Writer, text)
			return err
		},
	}
}
